// The elementwise formulas of mask_aggregate, the same text for CPU and CUDA. `Math` gives exp and reciprocal of the
// device; T is float or double. A NaN in any input reaches every result that depends on it.
#pragma once

#include <cmath>
#include <type_traits>

#include "options.h"

#ifdef __CUDACC__
#define FACEX_FORMULA __device__ __forceinline__
#else
#define FACEX_FORMULA __attribute__((always_inline)) inline
#endif

namespace facex::mask {

// m = act(a), its derivative, and the derivative divided by m, each without cancellation at either end.
template <typename T>
struct Mask {
  T value, slope, relative_slope;
};

template <Activation A, typename Math, typename T>
FACEX_FORMULA Mask<T> mask_of(T a) {
  const T size = std::fabs(a);
  if constexpr (A == Activation::kSigmoid) {
    const T e = Math::exp(-size), large = Math::reciprocal(T(1) + e), small = e * large;
    const bool positive = a >= T(0);
    return {positive ? large : small, large * small, positive ? small : large};
  } else {
    const T e = Math::exp(T(-2) * size), inverse = Math::reciprocal(T(1) + e);
    T m;
    if constexpr (std::is_same_v<T, double>) {
      m = std::tanh(a);
    } else {
      // Near 0 the quotient cancels: there an odd polynomial (minimax, Cephes' coefficients).
      const T s = a * a;
      T p = T(-5.70498872745e-3) * s + T(2.06390887954e-2);
      p = p * s + T(-5.37397155531e-2);
      p = p * s + T(1.33314422036e-1);
      p = p * s + T(-3.33332819422e-1);
      m = std::copysign(size < T(0.625) ? size + size * s * p : (T(1) - e) * inverse, a);
    }
    const T slope = T(4) * e * inverse * inverse;
    return {m, slope, slope / m};
  }
}

// The divisor: m kept away from 0 by eps.
template <typename T>
FACEX_FORMULA T bounded(T m, T eps) {
  return std::fabs(m) < eps ? (m < T(0) ? -eps : eps) : m;
}

// arith(y, act(a))
template <Activation A, Arith R, typename Math, typename T>
FACEX_FORMULA T masked(T y, T a, T div_eps) {
  const T m = mask_of<A, Math>(a).value;
  if constexpr (R == Arith::kAdd) return y + m;
  if constexpr (R == Arith::kSub) return y - m;
  if constexpr (R == Arith::kMul) return y * m;
  if constexpr (R == Arith::kDiv) return y / bounded(m, div_eps);
}

template <typename T>
struct Gradients {
  T y, a;
};

// The gradients of arith(y, act(a)) for the upstream gradient g; y is not looked at for add and sub.
template <Activation A, Arith R, typename Math, typename T>
FACEX_FORMULA Gradients<T> masked_gradients(T g, T y, T a, T div_eps) {
  const Mask<T> m = mask_of<A, Math>(a);
  if constexpr (R == Arith::kAdd) return {g, g * m.slope};
  if constexpr (R == Arith::kSub) return {g, -g * m.slope};
  if constexpr (R == Arith::kMul) return {g * m.value, g * y * m.slope};
  if constexpr (R == Arith::kDiv) {
    const T da = -g * (y / m.value) * m.relative_slope;
    return {g / bounded(m.value, div_eps), std::fabs(m.value) < div_eps ? T(0) : da};
  }
}

// PReLU of an affine map: what precedes the mask in the folded form.
template <typename T>
FACEX_FORMULA T folded_activation(T h, T t, T scale, T shift, T slope) {
  const T u = scale * h + shift + t;
  return u > T(0) ? u : slope * u;
}

}  // namespace facex::mask
