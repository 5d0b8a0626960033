#include "cpu_patch.h"

#include "simd.h"

namespace facex::patches {
namespace {

template <typename T>
FACEX_INLINE void read_rows(const T* __restrict image, const Place<T>& at, int64_t patch, int64_t channels,
                            T* __restrict tokens) {
  const int64_t column = patch * channels;
  const T* __restrict wy = at.wy;
  for (int64_t i = 0; i < patch; ++i) {
    const T* __restrict left = image + at.offset + i * at.stride;
    const T* __restrict right = left + at.stride;
    T* __restrict out = tokens + i * column;
    const T wx = at.wx[i];
#pragma omp simd
    for (int64_t k = 0; k < column; ++k) {
      const T upper = (1 - wx) * left[k] + wx * right[k];
      const T lower = (1 - wx) * left[k + channels] + wx * right[k + channels];
      out[k] = (1 - wy[k]) * upper + wy[k] * lower;
    }
  }
}

template <typename T>
FACEX_INLINE void add_rows(const T* __restrict grad, const Place<T>& at, int64_t patch, int64_t channels,
                           T* __restrict dimage) {
  const int64_t column = patch * channels;
  const T* __restrict wy = at.wy;
  for (int64_t i = 0; i <= patch; ++i) {
    // the column of pixels i takes from the tokens' column i as their left one, and from i - 1 as their right one
    const T* __restrict own = grad + (i < patch ? i : patch - 1) * column;
    const T* __restrict before = grad + (i > 0 ? i - 1 : 0) * column;
    const T a = i < patch ? 1 - at.wx[i] : T(0), b = i > 0 ? at.wx[i - 1] : T(0);
    T* __restrict out = dimage + at.offset + i * at.stride;
#pragma omp simd
    for (int64_t k = 0; k < column; ++k) out[k] += (1 - wy[k]) * (a * own[k] + b * before[k]);
    T* __restrict below = out + channels;
#pragma omp simd
    for (int64_t k = 0; k < column; ++k) below[k] += wy[k] * (a * own[k] + b * before[k]);
  }
}

template <typename T>
FACEX_INLINE void slope_rows(const T* __restrict image, const T* __restrict grad, const Place<T>& at, int64_t patch,
                             int64_t channels, T* dlandmark) {
  const int64_t column = patch * channels;
  const T* __restrict wy = at.wy;
  T along_x = 0, along_y = 0;
  for (int64_t i = 0; i < patch; ++i) {
    const T* __restrict left = image + at.offset + i * at.stride;
    const T* __restrict right = left + at.stride;
    const T* __restrict g = grad + i * column;
    const T wx = at.wx[i];
#pragma omp simd reduction(+ : along_x, along_y)
    for (int64_t k = 0; k < column; ++k) {
      const T upper = right[k] - left[k], lower = right[k + channels] - left[k + channels];
      along_x += g[k] * (upper * (1 - wy[k]) + lower * wy[k]);
      const T near = left[k + channels] - left[k], far = right[k + channels] - right[k];
      along_y += g[k] * (near * (1 - wx) + far * wx);
    }
  }
  dlandmark[0] = along_x;
  dlandmark[1] = along_y;
}

}  // namespace

FACEX_CLONES void read_patch(const float* image, const Place<float>& at, int64_t patch, int64_t channels,
                             float* tokens) {
  read_rows(image, at, patch, channels, tokens);
}
FACEX_CLONES void read_patch(const double* image, const Place<double>& at, int64_t patch, int64_t channels,
                             double* tokens) {
  read_rows(image, at, patch, channels, tokens);
}
FACEX_CLONES void add_patch(const float* grad, const Place<float>& at, int64_t patch, int64_t channels, float* dimage) {
  add_rows(grad, at, patch, channels, dimage);
}
FACEX_CLONES void add_patch(const double* grad, const Place<double>& at, int64_t patch, int64_t channels,
                            double* dimage) {
  add_rows(grad, at, patch, channels, dimage);
}
FACEX_CLONES void slope_patch(const float* image, const float* grad, const Place<float>& at, int64_t patch,
                              int64_t channels, float* dlandmark) {
  slope_rows(image, grad, at, patch, channels, dlandmark);
}
FACEX_CLONES void slope_patch(const double* image, const double* grad, const Place<double>& at, int64_t patch,
                              int64_t channels, double* dlandmark) {
  slope_rows(image, grad, at, patch, channels, dlandmark);
}

}  // namespace facex::patches
