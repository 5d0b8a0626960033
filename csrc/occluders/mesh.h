// A small triangle renderer: a textured, lit mesh drawn over a picture with a depth buffer.
#pragma once

#include <cstdint>

namespace facex::occluders {

// Triangles in the picture's frame: x, y in pixels (centres at integers), z towards the camera. Triangles whose corners
// run counter-clockwise as seen (y down) look away and are left out; the others are seen from their front.
struct Mesh {
  const float* vertices;  // [vertex_count, 3]
  const float* uv;        // [vertex_count, 2], shares of the texture's width and height
  const std::int32_t* triangles;
  int vertex_count, triangle_count;
};

struct Texture {
  const float* rgba;  // [height, width, 4], 0..1, colours not multiplied by alpha
  int height, width;
};

// Light at a vertex with normal n: (ambient + diffuse max(0, n . direction)) * clamp(plane . (1, x, y)), times the
// tint.
struct Lamp {
  float direction[3];
  float ambient, diffuse;
  float plane[3];
  float tint[3];
};
constexpr int kLampValues = 11;
constexpr float kPlaneLow = 0.35f, kPlaneHigh = 1.6f;

// Draws the mesh over `image` [height, width, channels] (RGB, or grey) with `samples` x `samples` samples a pixel, and
// sets `mask` [height, width] to 255 where at least half of a pixel is covered.
void render_mesh(std::uint8_t* image, int channels, std::uint8_t* mask, int height, int width, const Mesh& mesh,
                 const Texture& texture, const Lamp& lamp, int samples);

}  // namespace facex::occluders
