#include "cpu_patch.h"

#include "simd.h"

namespace facex::patches {
namespace {

// Sizes of a patch; known to the compiler where they are the usual ones, so that a column stays in registers.
template <int64_t Patch, int64_t Channels>
struct Fixed {
  constexpr int64_t patch() const { return Patch; }
  constexpr int64_t channels() const { return Channels; }
  constexpr int64_t column() const { return Patch * Channels; }
};
struct Any {
  int64_t patch_, channels_;
  int64_t patch() const { return patch_; }
  int64_t channels() const { return channels_; }
  int64_t column() const { return patch_ * channels_; }
};
constexpr int64_t kPiece = 24;  // numbers of a column that are worked on at a time

// Calls work(size, first number, count) for the pieces of a column.
template <typename Size, typename Work>
FACEX_INLINE void pieces(Size size, const Work& work) {
  for (int64_t first = 0; first < size.column(); first += kPiece) {
    const int64_t left = size.column() - first;
    work(first, left < kPiece ? left : kPiece);
  }
}

template <typename T, typename Size>
FACEX_INLINE void read_rows(const T* image, const Place<T>& at, Size size, T* tokens) {
  pieces(size, [&](int64_t first, int64_t count) {
    const T* __restrict wy = at.wy + first;
    T near[kPiece], far[kPiece];  // the pixels' columns, blended along y
    const auto blend = [&](int64_t i, T* out) __attribute__((always_inline)) {
      const T* __restrict pixels = image + at.offset + i * at.stride + first;
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) out[k] = pixels[k] + wy[k] * (pixels[k + size.channels()] - pixels[k]);
    };
    blend(0, near);
    for (int64_t i = 0; i < size.patch(); ++i) {
      blend(i + 1, far);
      T* __restrict out = tokens + i * size.column() + first;
      const T wx = at.wx[i];
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        out[k] = near[k] + wx * (far[k] - near[k]);
        near[k] = far[k];
      }
    }
  });
}

template <typename T, typename Size>
FACEX_INLINE void add_rows(const T* grad, const Place<T>& at, Size size, T* dimage) {
  pieces(size, [&](int64_t first, int64_t count) {
    const T* __restrict wy = at.wy + first;
    for (int64_t i = 0; i <= size.patch(); ++i) {
      // the column of pixels i takes from the tokens' column i as their left one, and from i - 1 as their right one
      const T* __restrict own = grad + (i < size.patch() ? i : i - 1) * size.column() + first;
      const T* __restrict before = grad + (i > 0 ? i - 1 : 0) * size.column() + first;
      const T a = i < size.patch() ? 1 - at.wx[i] : T(0), b = i > 0 ? at.wx[i - 1] : T(0);
      T* __restrict out = dimage + at.offset + i * at.stride + first;
      T sum[kPiece];
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        sum[k] = a * own[k] + b * before[k];
        out[k] += (1 - wy[k]) * sum[k];
      }
      T* __restrict below = out + size.channels();
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) below[k] += wy[k] * sum[k];
    }
  });
}

template <typename T, typename Size>
FACEX_INLINE void slope_rows(const T* image, const T* grad, const Place<T>& at, Size size, T* dlandmark) {
  T along_x = 0, along_y = 0;
  pieces(size, [&](int64_t first, int64_t count) {
    const T* __restrict wy = at.wy + first;
    T near[kPiece], far[kPiece], step[kPiece], next[kPiece];  // columns blended along y, and their slopes along y
    const auto blend = [&](int64_t i, T* value, T* slope) __attribute__((always_inline)) {
      const T* __restrict pixels = image + at.offset + i * at.stride + first;
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        slope[k] = pixels[k + size.channels()] - pixels[k];
        value[k] = pixels[k] + wy[k] * slope[k];
      }
    };
    T x[kPiece] = {}, y[kPiece] = {};
    blend(0, near, step);
    for (int64_t i = 0; i < size.patch(); ++i) {
      blend(i + 1, far, next);
      const T* __restrict g = grad + i * size.column() + first;
      const T wx = at.wx[i];
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        x[k] += g[k] * (far[k] - near[k]);
        y[k] += g[k] * (step[k] + wx * (next[k] - step[k]));
        near[k] = far[k];
        step[k] = next[k];
      }
    }
    for (int64_t k = 0; k < count; ++k) {
      along_x += x[k];
      along_y += y[k];
    }
  });
  dlandmark[0] = along_x;
  dlandmark[1] = along_y;
}

// Calls work with the sizes.
template <typename Work>
FACEX_INLINE void with_size(int64_t patch, int64_t channels, const Work& work) {
  if (patch == 8 && channels == 3) return work(Fixed<8, 3>());
  work(Any{patch, channels});
}

}  // namespace

FACEX_CLONES void read_patch(const float* image, const Place<float>& at, int64_t patch, int64_t channels,
                             float* tokens) {
  with_size(patch, channels, [&](auto size) __attribute__((always_inline)) { read_rows(image, at, size, tokens); });
}
FACEX_CLONES void read_patch(const double* image, const Place<double>& at, int64_t patch, int64_t channels,
                             double* tokens) {
  with_size(patch, channels, [&](auto size) __attribute__((always_inline)) { read_rows(image, at, size, tokens); });
}
FACEX_CLONES void add_patch(const float* grad, const Place<float>& at, int64_t patch, int64_t channels, float* dimage) {
  with_size(patch, channels, [&](auto size) __attribute__((always_inline)) { add_rows(grad, at, size, dimage); });
}
FACEX_CLONES void add_patch(const double* grad, const Place<double>& at, int64_t patch, int64_t channels,
                            double* dimage) {
  with_size(patch, channels, [&](auto size) __attribute__((always_inline)) { add_rows(grad, at, size, dimage); });
}
FACEX_CLONES void slope_patch(const float* image, const float* grad, const Place<float>& at, int64_t patch,
                              int64_t channels, float* dlandmark) {
  with_size(patch, channels,
            [&](auto size) __attribute__((always_inline)) { slope_rows(image, grad, at, size, dlandmark); });
}
FACEX_CLONES void slope_patch(const double* image, const double* grad, const Place<double>& at, int64_t patch,
                              int64_t channels, double* dlandmark) {
  with_size(patch, channels,
            [&](auto size) __attribute__((always_inline)) { slope_rows(image, grad, at, size, dlandmark); });
}

}  // namespace facex::patches
