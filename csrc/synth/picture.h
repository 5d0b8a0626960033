// From layers, surface and light to the finished picture.
#pragma once

#include <cstdint>
#include <vector>

#include "shade.h"

namespace facex::synth {

struct Camera {
  float gain[3];      // exposure and white balance
  float saturation;   // 1: as it is, 0: grey
  float blur[2];      // standard deviations along x and y, in pixels of the 112 px frame
  float noise;        // standard deviation in grey levels
  const float* tone;  // grey level 0..255 for linear values 0..2, `tone_size` entries
  int tone_size;
};

// Buffers of one picture, kept by a thread for the next.
struct Workspace {
  LayerGrid grid;
  std::vector<float> surface, depth, spots, image, copy;
};

// Writes uint8 RGB [size, size, 3]; the workspace holds the drawn layers and the surface.
void take_picture(const Scene& scene, const std::vector<Splat>& splats, const Camera& camera, Workspace& work,
                  std::uint8_t* out);

}  // namespace facex::synth
