// One patch of a transposed, padded image: read with bilinear weights, and their transpose.
#pragma once

#include <cstdint>

namespace facex::patches {

// Where a patch lies: `offset` of its first pixel in a padded image whose x columns are `stride` numbers apart, and how
// far its pixels stand from those of the image: wx [patch] along x, wy [patch * channels] along y, each the weight of
// the next pixel. They are equal but for the rounding of the coordinates.
template <typename T>
struct Place {
  int64_t offset, stride;
  const T *wx, *wy;
};

// tokens[i * column + k] for i < patch, k < column = patch * channels.
void read_patch(const float* image, const Place<float>& at, int64_t patch, int64_t channels, float* tokens);
void read_patch(const double* image, const Place<double>& at, int64_t patch, int64_t channels, double* tokens);

// Adds the gradient of a patch's tokens to the padded image's gradient.
void add_patch(const float* grad, const Place<float>& at, int64_t patch, int64_t channels, float* dimage);
void add_patch(const double* grad, const Place<double>& at, int64_t patch, int64_t channels, double* dimage);

// The gradient of the landmark: dlandmark[0] along x, dlandmark[1] along y.
void slope_patch(const float* image, const float* grad, const Place<float>& at, int64_t patch, int64_t channels,
                 float* dlandmark);
void slope_patch(const double* image, const double* grad, const Place<double>& at, int64_t patch, int64_t channels,
                 double* dlandmark);

}  // namespace facex::patches
