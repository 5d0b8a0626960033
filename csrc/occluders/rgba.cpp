#include "rgba.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace facex::occluders {

namespace {

constexpr int kBits = 22;
constexpr double kSupport = 2.0;  // of the bicubic kernel, in pixels of the coarser side

// Keys' kernel with a = -0.5.
double cubic(double x) {
  x = std::fabs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0) return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0;
  return 0.0;
}

Taps make_taps(int source, int target) {
  const double scale = static_cast<double>(source) / target, wide = std::max(scale, 1.0), support = kSupport * wide;
  Taps taps;
  taps.width = static_cast<int>(std::ceil(support)) * 2 + 1;
  taps.first.resize(target);
  taps.count.resize(target);
  taps.weight.assign(static_cast<std::size_t>(target) * taps.width, 0);
  std::vector<double> blend(taps.width);
  for (int i = 0; i < target; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int count = std::min(static_cast<int>(centre + support + 0.5), source) - first;
    double sum = 0.0;
    for (int k = 0; k < count; ++k) sum += blend[k] = cubic((k + first - centre + 0.5) / wide);
    for (int k = 0; k < count; ++k) {
      const double w = blend[k] / sum * (1 << kBits);
      taps.weight[static_cast<std::size_t>(i) * taps.width + k] = static_cast<std::int32_t>(w < 0 ? w - 0.5 : w + 0.5);
    }
    taps.first[i] = first;
    taps.count[i] = count;
  }
  return taps;
}

std::uint8_t to_byte(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kBits, 0, 255)); }

void premultiply(const std::uint8_t* source, std::uint8_t* target, int pixels) {
  for (int i = 0; i < pixels; ++i, source += kRgba, target += kRgba) {
    for (int c = 0; c < 3; ++c) {
      const int product = source[c] * source[3] + 128;
      target[c] = static_cast<std::uint8_t>(((product >> 8) + product) >> 8);
    }
    target[3] = source[3];
  }
}

void unpremultiply(std::uint8_t* pixels, int count) {
  for (int i = 0; i < count; ++i, pixels += kRgba) {
    const int alpha = pixels[3];
    if (alpha == 0 || alpha == 255) continue;
    for (int c = 0; c < 3; ++c) pixels[c] = static_cast<std::uint8_t>(std::min(255 * pixels[c] / alpha, 255));
  }
}

void resize_columns(const std::uint8_t* source, int h, int w, std::uint8_t* target, int width) {
  const Taps taps = make_taps(w, width);
  for (int x = 0; x < width; ++x) {
    const std::int32_t* weight = taps.weight.data() + static_cast<std::size_t>(x) * taps.width;
    for (int y = 0; y < h; ++y) {
      const std::uint8_t* in = source + kRgba * (static_cast<std::size_t>(y) * w + taps.first[x]);
      std::int32_t sum[kRgba] = {1 << (kBits - 1), 1 << (kBits - 1), 1 << (kBits - 1), 1 << (kBits - 1)};
      for (int k = 0; k < taps.count[x]; ++k)
        for (int c = 0; c < kRgba; ++c) sum[c] += weight[k] * in[kRgba * k + c];
      std::uint8_t* out = target + kRgba * (static_cast<std::size_t>(y) * width + x);
      for (int c = 0; c < kRgba; ++c) out[c] = to_byte(sum[c]);
    }
  }
}

void resize_rows(const std::uint8_t* source, int h, int w, std::uint8_t* target, int height) {
  const Taps taps = make_taps(h, height);
  const int row = kRgba * w;
  std::vector<std::int32_t> sums(row);
  for (int y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), 1 << (kBits - 1));
    for (int k = 0; k < taps.count[y]; ++k) {
      const std::int32_t weight = taps.weight[static_cast<std::size_t>(y) * taps.width + k];
      const std::uint8_t* in = source + static_cast<std::size_t>(taps.first[y] + k) * row;
      for (int i = 0; i < row; ++i) sums[i] += weight * in[i];
    }
    for (int i = 0; i < row; ++i) target[static_cast<std::size_t>(y) * row + i] = to_byte(sums[i]);
  }
}

}  // namespace

void resize_rgba(const std::uint8_t* source, int h, int w, std::uint8_t* target, int height, int width) {
  if (h == height && w == width) {
    std::memcpy(target, source, static_cast<std::size_t>(kRgba) * h * w);
    return;
  }
  static thread_local std::vector<std::uint8_t> flat, narrow;
  flat.resize(static_cast<std::size_t>(kRgba) * h * w);
  premultiply(source, flat.data(), h * w);
  if (w != width) {
    narrow.resize(static_cast<std::size_t>(kRgba) * h * width);
    resize_columns(flat.data(), h, w, narrow.data(), width);
    flat.swap(narrow);
  }
  if (h != height)
    resize_rows(flat.data(), h, width, target, height);
  else
    std::memcpy(target, flat.data(), static_cast<std::size_t>(kRgba) * height * width);
  unpremultiply(target, height * width);
}

void paste_rgba(std::uint8_t* image, int channels, std::uint8_t* mask, int height, int width, const std::uint8_t* asset,
                int h, int w, int x, int y, int hidden) {
  for (int row = std::max(0, -y); row < std::min(h, height - y); ++row) {
    for (int column = std::max(0, -x); column < std::min(w, width - x); ++column) {
      const std::uint8_t* from = asset + kRgba * (static_cast<std::size_t>(row) * w + column);
      const std::size_t at = static_cast<std::size_t>(y + row) * width + x + column;
      if (from[3] > 0) mask[at] = 255;
      if (from[3] > hidden) std::memcpy(image + channels * at, from, channels);
    }
  }
}

}  // namespace facex::occluders
