#include "cpu_tile.h"

#include <cmath>
#include <limits>

#include "simd.h"

namespace facex::cpu {
namespace {

template <typename T>
constexpr T kMinusInf = -std::numeric_limits<T>::infinity();

using simd::exponential;

template <typename T>
FACEX_INLINE T largest_exponent() {
  return sizeof(T) == 4 ? T(88) : T(700);
}

// g(c), with excluded entries (-inf) left as they are.
template <Rule R, typename T>
FACEX_INLINE T apply(T c, T threshold, T t) {
  if constexpr (R == Rule::kClamp) {
    const T low = c < -threshold ? (c == kMinusInf<T> ? c : -threshold) : c;
    return low > threshold ? threshold : low;
  } else if constexpr (R == Rule::kZeroAbove) {
    return c > threshold ? T(0) : c;
  } else if constexpr (R == Rule::kHard) {
    return c > threshold ? c * (t + c) : c;
  } else {
    return c;
  }
}

// g'(c)
template <Rule R, typename T>
FACEX_INLINE T slope(T c, T threshold, T t) {
  if constexpr (R == Rule::kClamp) {
    return (c < -threshold) | (c > threshold) ? T(0) : T(1);
  } else if constexpr (R == Rule::kZeroAbove) {
    return c > threshold ? T(0) : T(1);
  } else if constexpr (R == Rule::kHard) {
    return c > threshold ? t + T(2) * c : T(1);
  } else {
    return T(1);
  }
}

template <typename T>
FACEX_INLINE void inverse_norms_of(const T* weight, int64_t rows, int64_t dim, bool normalize, T* inverse, T* free) {
  for (int64_t j = 0; j < rows; ++j) {
    T squares = 0;
    const T* w = weight + j * dim;
    if (normalize) {
#pragma omp simd reduction(+ : squares)
      for (int64_t d = 0; d < dim; ++d) squares += w[d] * w[d];
    }
    const T norm = std::sqrt(squares);
    const bool floored = norm < T(kNormFloor);
    inverse[j] = normalize ? T(1) / (floored ? T(kNormFloor) : norm) : T(1);
    free[j] = normalize && !floored ? T(1) : T(0);
  }
}

template <Rule R, typename T>
FACEX_INLINE void forward_rows(T* __restrict tile, int64_t rows, int64_t lanes, const TileRule<T>& rule,
                               T* __restrict top, T* __restrict maximum, T* __restrict sum) {
  const T scale = rule.scale, t = rule.hard_t;
  const T* __restrict threshold = rule.threshold;
  for (int64_t i = 0; i < lanes; ++i) top[i] = maximum[i];
  for (int64_t j = 0; j < rows; ++j) {
    const T inverse = rule.inverse_norm[j], bias = rule.bias ? rule.bias[j] : T(0);
    T* __restrict row = tile + j * lanes;
#pragma omp simd
    for (int64_t i = 0; i < lanes; ++i) {
      T limit = 0;
      if constexpr (R != Rule::kPlain) limit = threshold[i];
      const T logit = apply<R, T>(row[i] * inverse, limit, t) * scale + bias;
      row[i] = logit;
      top[i] = logit > top[i] ? logit : top[i];
    }
  }
  for (int64_t i = 0; i < lanes; ++i) {
    const T base = top[i] == kMinusInf<T> ? T(0) : top[i];  // an empty lane: every exponential below is exp(-inf) = 0
    sum[i] *= exponential(maximum[i] - base);
    maximum[i] = top[i];
    top[i] = base;
  }
  for (int64_t j = 0; j < rows; ++j) {
    const T* __restrict row = tile + j * lanes;
#pragma omp simd
    for (int64_t i = 0; i < lanes; ++i) sum[i] += exponential(row[i] - top[i]);
  }
}

template <Rule R, typename T>
FACEX_INLINE void backward_rows(T* __restrict tile, int64_t rows, int64_t lanes, const TileRule<T>& rule,
                                const T* output_factor, const T* __restrict lse, const T* __restrict grad, T* along,
                                T* dbias) {
  const T scale = rule.scale, t = rule.hard_t, most = largest_exponent<T>();
  const T* __restrict threshold = rule.threshold;
  for (int64_t j = 0; j < rows; ++j) {
    const T inverse = rule.inverse_norm[j], bias = rule.bias ? rule.bias[j] : T(0);
    const T factor = output_factor ? output_factor[j] : T(1);
    T* __restrict row = tile + j * lanes;
    T along_sum = 0, logit_sum = 0;
#pragma omp simd reduction(+ : along_sum, logit_sum)
    for (int64_t i = 0; i < lanes; ++i) {
      T limit = 0;
      if constexpr (R != Rule::kPlain) limit = threshold[i];
      const T dot = row[i] * inverse;
      const bool excluded = dot == kMinusInf<T>;
      const T c = excluded ? T(0) : dot;
      const T over = apply<R, T>(c, limit, t) * scale + bias - lse[i];
      const T probability = exponential(over > most ? most : over);
      const T logit_grad = excluded ? T(0) : probability * grad[i];
      const T cosine_grad = logit_grad * scale * slope<R, T>(c, limit, t);
      along_sum += cosine_grad * c;
      logit_sum += logit_grad;
      row[i] = cosine_grad * factor;
    }
    along[j] += along_sum;
    if (dbias) dbias[j] += logit_sum;
  }
}

template <typename T>
FACEX_INLINE void forward_any(T* tile, int64_t rows, int64_t lanes, const TileRule<T>& rule, T* scratch, T* maximum,
                              T* sum) {
  switch (rule.rule) {
    case Rule::kPlain:
      return forward_rows<Rule::kPlain, T>(tile, rows, lanes, rule, scratch, maximum, sum);
    case Rule::kClamp:
      return forward_rows<Rule::kClamp, T>(tile, rows, lanes, rule, scratch, maximum, sum);
    case Rule::kZeroAbove:
      return forward_rows<Rule::kZeroAbove, T>(tile, rows, lanes, rule, scratch, maximum, sum);
    case Rule::kHard:
      return forward_rows<Rule::kHard, T>(tile, rows, lanes, rule, scratch, maximum, sum);
  }
}

template <typename T>
FACEX_INLINE void backward_any(T* tile, int64_t rows, int64_t lanes, const TileRule<T>& rule, const T* output_factor,
                               const T* lse, const T* grad, T* along, T* dbias) {
  switch (rule.rule) {
    case Rule::kPlain:
      return backward_rows<Rule::kPlain, T>(tile, rows, lanes, rule, output_factor, lse, grad, along, dbias);
    case Rule::kClamp:
      return backward_rows<Rule::kClamp, T>(tile, rows, lanes, rule, output_factor, lse, grad, along, dbias);
    case Rule::kZeroAbove:
      return backward_rows<Rule::kZeroAbove, T>(tile, rows, lanes, rule, output_factor, lse, grad, along, dbias);
    case Rule::kHard:
      return backward_rows<Rule::kHard, T>(tile, rows, lanes, rule, output_factor, lse, grad, along, dbias);
  }
}

template <typename T>
FACEX_INLINE void add_scaled_rows_of(T* out, const T* weight, int64_t rows, int64_t dim, const T* factor) {
  for (int64_t j = 0; j < rows; ++j) {
    const T f = factor[j];
    T* __restrict o = out + j * dim;
    const T* __restrict w = weight + j * dim;
    for (int64_t d = 0; d < dim; ++d) o[d] += f * w[d];
  }
}

}  // namespace

FACEX_CLONES void inverse_norms(const float* w, int64_t rows, int64_t dim, bool normalize, float* inverse,
                                float* free) {
  inverse_norms_of(w, rows, dim, normalize, inverse, free);
}
FACEX_CLONES void inverse_norms(const double* w, int64_t rows, int64_t dim, bool normalize, double* inverse,
                                double* free) {
  inverse_norms_of(w, rows, dim, normalize, inverse, free);
}
FACEX_CLONES void forward_tile(float* tile, int64_t rows, int64_t lanes, const TileRule<float>& rule, float* scratch,
                               float* maximum, float* sum) {
  forward_any(tile, rows, lanes, rule, scratch, maximum, sum);
}
FACEX_CLONES void forward_tile(double* tile, int64_t rows, int64_t lanes, const TileRule<double>& rule, double* scratch,
                               double* maximum, double* sum) {
  forward_any(tile, rows, lanes, rule, scratch, maximum, sum);
}
FACEX_CLONES void backward_tile(float* tile, int64_t rows, int64_t lanes, const TileRule<float>& rule,
                                const float* output_factor, const float* lse, const float* grad, float* along,
                                float* dbias) {
  backward_any(tile, rows, lanes, rule, output_factor, lse, grad, along, dbias);
}
FACEX_CLONES void backward_tile(double* tile, int64_t rows, int64_t lanes, const TileRule<double>& rule,
                                const double* output_factor, const double* lse, const double* grad, double* along,
                                double* dbias) {
  backward_any(tile, rows, lanes, rule, output_factor, lse, grad, along, dbias);
}
FACEX_CLONES void add_scaled_rows(float* out, const float* w, int64_t rows, int64_t dim, const float* factor) {
  add_scaled_rows_of(out, w, rows, dim, factor);
}
FACEX_CLONES void add_scaled_rows(double* out, const double* w, int64_t rows, int64_t dim, const double* factor) {
  add_scaled_rows_of(out, w, rows, dim, factor);
}

}  // namespace facex::cpu
