#include "cpu_rows.h"

#include "simd.h"

namespace facex::dino {
namespace {

using simd::exponential;

template <typename T>
FACEX_INLINE void scaled_of(const T* __restrict in, const T* __restrict center, T factor, int64_t n,
                            T* __restrict out) {
  if (center == nullptr) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) out[k] = in[k] * factor;
    return;
  }
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) out[k] = (in[k] - center[k]) * factor;
}

template <typename T>
FACEX_INLINE void take_of(const T* __restrict values, int64_t n, Running<T>& running) {
  T top = running.maximum, sum = 0;
#pragma omp simd reduction(max : top)
  for (int64_t k = 0; k < n; ++k) top = values[k] > top ? values[k] : top;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < n; ++k) sum += exponential(values[k] - top);
  running.sum = running.sum * exponential(running.maximum - top) + sum;
  running.maximum = top;
}

template <typename T>
FACEX_INLINE void probabilities_of(const T* __restrict values, T lse, int64_t n, T* __restrict out) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) out[k] = exponential(values[k] - lse);
}

template <typename T>
FACEX_INLINE T dot_of(const T* __restrict a, const T* __restrict b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < n; ++k) sum += a[k] * b[k];
  return sum;
}

template <typename T>
FACEX_INLINE void gradient_of(const T* __restrict values, const T* __restrict q, T lse, T partners, T factor, int64_t n,
                              T* __restrict out) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) out[k] = factor * (partners * exponential(values[k] - lse) - q[k]);
}

}  // namespace

FACEX_CLONES void scaled(const float* in, const float* center, float factor, int64_t n, float* out) {
  scaled_of(in, center, factor, n, out);
}
FACEX_CLONES void scaled(const double* in, const double* center, double factor, int64_t n, double* out) {
  scaled_of(in, center, factor, n, out);
}
FACEX_CLONES void take(const float* values, int64_t n, Running<float>& running) { take_of(values, n, running); }
FACEX_CLONES void take(const double* values, int64_t n, Running<double>& running) { take_of(values, n, running); }
FACEX_CLONES void probabilities(const float* values, float lse, int64_t n, float* out) {
  probabilities_of(values, lse, n, out);
}
FACEX_CLONES void probabilities(const double* values, double lse, int64_t n, double* out) {
  probabilities_of(values, lse, n, out);
}
FACEX_CLONES float dot(const float* a, const float* b, int64_t n) { return dot_of(a, b, n); }
FACEX_CLONES double dot(const double* a, const double* b, int64_t n) { return dot_of(a, b, n); }
FACEX_CLONES void gradient(const float* values, const float* q, float lse, float partners, float factor, int64_t n,
                           float* out) {
  gradient_of(values, q, lse, partners, factor, n, out);
}
FACEX_CLONES void gradient(const double* values, const double* q, double lse, double partners, double factor, int64_t n,
                           double* out) {
  gradient_of(values, q, lse, partners, factor, n, out);
}

}  // namespace facex::dino
