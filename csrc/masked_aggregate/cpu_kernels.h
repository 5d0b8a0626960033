// The loops of mask_aggregate over a block that lies in the first cache, for `cpu::launch`. T is float or double;
// storage of 16 bits is widened into such a block first and rounded out of it after.
#pragma once

#include <bit>
#include <cstdint>

#include "formulas.h"

namespace facex::mask::cpu {

#define FACEX_INLINE __attribute__((always_inline)) inline
#if defined(__clang__)
#define FACEX_INDEPENDENT _Pragma("clang loop vectorize(enable)")
#else
#define FACEX_INDEPENDENT _Pragma("GCC ivdep")
#endif

struct Math {
  static FACEX_INLINE double exp(double x) { return std::exp(x); }

  // exp of x <= 0 that the compiler vectorises: below 2 units in the last place, gradual underflow (1 / m keeps its
  // values to the end of the range), NaN for NaN. 2^f on [-1/2, 1/2] is a minimax polynomial.
  static FACEX_INLINE float exp(float x) {
    constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
    constexpr int kHeadroom = 24;            // 2^n is made 2^24 times too large, so that it is a normal number
    x = x < -104.0f ? -104.0f : x;
    const float shifted = x * 1.44269502f + kRounder, n = shifted - kRounder;
    const float f = x * 1.92596299e-8f + (x * 1.44269502f - n);
    float p = 1.535335905e-4f * f + 1.339887502e-3f;
    p = p * f + 9.618436918e-3f;
    p = p * f + 5.550332367e-2f;
    p = p * f + 2.402264774e-1f;
    p = p * f + 6.931471825e-1f;
    p = p * f + 1.0f;
    const uint32_t power = (std::bit_cast<uint32_t>(shifted) << 23) + (uint32_t(kHeadroom + 127) << 23);
    return p * std::bit_cast<float>(power) * (1.0f / (1 << kHeadroom));
  }

  template <typename T>
  static FACEX_INLINE T reciprocal(T x) {
    return T(1) / x;
  }
};

template <typename T>
struct ForwardBlock {
  const T *y, *a, *extra;  // extra may be null
  T* z;
  int64_t size;
  T div_eps;
};

template <Activation A, Arith R, bool Skip, typename T>
struct ForwardKernel {
  static FACEX_INLINE void run(const ForwardBlock<T>& block) {
    const T* __restrict y = block.y, * __restrict a = block.a, * __restrict extra = block.extra;
    T* __restrict z = block.z;
    const T eps = block.div_eps;
    FACEX_INDEPENDENT
    for (int64_t i = 0; i < block.size; ++i) {
      const T p = masked<A, R, Math>(y[i], a[i], eps);
      z[i] = Skip ? p + y[i] : p;
    }
    if (extra) {
      FACEX_INDEPENDENT
      for (int64_t i = 0; i < block.size; ++i) z[i] += extra[i];
    }
  }
};

template <typename T>
struct BackwardBlock {
  const T *grad, *y, *a;  // y is null for add and sub
  T *dy, *da;
  int64_t size;
  T div_eps;
};

template <Activation A, Arith R, bool Skip, typename T>
struct BackwardKernel {
  static FACEX_INLINE void run(const BackwardBlock<T>& block) {
    const T* __restrict grad = block.grad, * __restrict a = block.a;
    const T* __restrict y = needs_features(R) ? block.y : block.a;
    T* __restrict dy = block.dy, * __restrict da = block.da;
    const T eps = block.div_eps;
    FACEX_INDEPENDENT
    for (int64_t i = 0; i < block.size; ++i) {
      const Gradients<T> d = masked_gradients<A, R, Math>(grad[i], y[i], a[i], eps);
      dy[i] = Skip ? d.y + grad[i] : d.y;
      da[i] = d.a;
    }
  }
};

// Between storage of 16 bits and float.
template <typename Storage>
struct WidenKernel {
  static FACEX_INLINE void run(const Storage* __restrict from, float* __restrict to, int64_t size) {
    FACEX_INDEPENDENT
    for (int64_t i = 0; i < size; ++i) to[i] = static_cast<float>(from[i]);
  }
};

template <typename Storage>
struct NarrowKernel {
  static FACEX_INLINE void run(const float* __restrict from, Storage* __restrict to, int64_t size) {
    FACEX_INDEPENDENT
    for (int64_t i = 0; i < size; ++i) to[i] = static_cast<Storage>(from[i]);
  }
};

// Part of a block whose elements have one channel (Spread = false), or as many channels as elements.
template <bool Spread, typename T>
struct FoldedKernel {
  static FACEX_INLINE void run(const T* __restrict h, const T* __restrict t, const T* __restrict scale,
                               const T* __restrict shift, const T* __restrict slope, T* __restrict a, int64_t size) {
    FACEX_INDEPENDENT
    for (int64_t i = 0; i < size; ++i) {
      const int64_t c = Spread ? i : 0;
      a[i] = folded_activation(h[i], t[i], scale[c], shift[c], slope[c]);
    }
  }
};

}  // namespace facex::mask::cpu
