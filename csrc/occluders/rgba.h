// Pictures with alpha: Pillow's bicubic resize, and pasting with a hard edge. 8 bits a channel, colours not
// multiplied by alpha.
#pragma once

#include <cstdint>
#include <vector>

namespace facex::occluders {

constexpr int kRgba = 4;

// Rows and columns of blends for one resized side.
struct Taps {
  std::vector<int> first, count;
  std::vector<std::int32_t> weight;  // [target, width], units of 2^-22
  int width = 0;
};

// Resizes `source` [h, w, 4] into `target` [height, width, 4] to the bit as Pillow resizes an RGBA image by BICUBIC:
// colours are multiplied by alpha, rows then columns are blended in fixed point with bytes in between, and divided.
void resize_rgba(const std::uint8_t* source, int h, int w, std::uint8_t* target, int height, int width);

// Puts `asset` [h, w, 4] with its corner at (x, y) of `image` [height, width, channels], cut at the edges: the picture
// takes its colours where alpha > `hidden`, the mask becomes 255 where alpha > 0. A grey picture takes the first
// colour.
void paste_rgba(std::uint8_t* image, int channels, std::uint8_t* mask, int height, int width, const std::uint8_t* asset,
                int h, int w, int x, int y, int hidden);

}  // namespace facex::occluders
