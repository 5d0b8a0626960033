// The lit surface of the face: a grid of vertices drawn with a depth buffer.
#pragma once

#include <vector>

namespace facex::synth {

// Directions in the camera's frame: x right, y down, z towards the camera. Colours are linear.
struct Light {
  float direction[3];  // towards the key light, unit length
  float key[3];
  float sky[3];     // ambient light on surfaces that look up
  float ground[3];  // ambient light on surfaces that look down
  float wrap;       // 0: hard terminator; 1: light wraps around the whole form
  float specular;
  float gloss;  // exponent of the highlight

  void diffuse(const float normal[3], float rgb[3]) const;
  float highlight(const float normal[3]) const;
};

// Per output pixel: light r, g, b; albedo r, g, b; highlight.
constexpr int kSurfaceChannels = 7;

// Draws the grid `vertices` [rows, columns, 3] (x, y in the 112 px frame, z towards the camera) with `albedo`
// [rows, columns, 3] into a map [size, size, kSurfaceChannels]. Pixels off the mesh take the value of the nearest
// one in their row (or of the nearest row), so that what hangs over the silhouette is lit like its edge.
// `map` and `depth` are buffers that may be used again.
void draw_surface(const float* vertices, const float* albedo, int rows, int columns, const Light& light, int size,
                  std::vector<float>& map, std::vector<float>& depth);

}  // namespace facex::synth
