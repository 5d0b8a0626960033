// Materials: the colour of a layer at a pixel.
#pragma once

#include <cstdint>
#include <vector>

#include "raster.h"
#include "surface.h"

namespace facex::synth {

// The numbers are shared with facex/synth/layers.py; `p` is Layer::p, coordinates are in the 112 px frame.
enum Material {
  kBackdrop = 0,  // the backdrop picture
  kFlat = 1,      // rgb as it is
  kSkin = 2,      // rgb * albedo of the surface * light, with highlight
  kOnSkin = 3,    // skin with rgb laid over it. p: opacity, strand contrast, strand frequency, slant, gloss
  kHair = 4,      // p: centre x, y, radii x, y, strand frequency, curl, contrast, gloss
  kCloth = 5,  // p: second colour r, g, b, pattern (0 plain 1 stripes 2 checks 3 mottled), frequency, angle, tilt x, y
  kRound = 6,  // a lit cylinder or ellipsoid. p: centre x, y, radii x, y, darkness at the top, -, -, gloss
  kEyeball = 7,  // rgb * light of the surface, softened. p: centre x, y, radius, ring darkness, mottle
};

// A soft elliptic spot: centre, radii, angle, colour (multiplied or added), and what it acts on.
struct Splat {
  float x, y, rx, ry, angle;
  float rgb[3];
  float target;  // 0: multiplies the skin's albedo, 1: multiplies the picture, 2: adds to the picture
};

struct Scene {
  std::vector<Layer> layers;
  Light light;
  const float* backdrop;  // linear rgb [rows, columns, 3], stretched over the picture
  int backdrop_rows, backdrop_columns;
  std::uint32_t seed;  // of hair and cloth textures
  int skin;            // the first skin layer: what lies on skin takes its colour from it
};

// Linear colour of layer `id` at (x, y) in the frame; `surface` holds kSurfaceChannels values of that pixel and
// `spots` the product of the skin's splats.
void shade(const Scene& scene, int id, float x, float y, const float* surface, const float* spots, float rgb[3]);

// A random number in [0, 1) for a pair of integers.
float lattice(std::uint32_t seed, int x, int y);

}  // namespace facex::synth
