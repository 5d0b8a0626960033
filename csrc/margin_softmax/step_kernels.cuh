// The optimizer step of a chunk of class rows on CUDA, from the gradient of the normalised rows. T: accumulation and
// weight type, M: type of the first moment (T, or uint16_t for bfloat16 bits).
#pragma once

#include "kernels.cuh"
#include "rounding.h"
#include "step.h"

namespace facex::cuda {

template <typename T>
__device__ __forceinline__ T moment_value(T value) {
  return value;
}
template <typename T>
__device__ __forceinline__ T moment_value(uint16_t bits) {
  return static_cast<T>(__uint_as_float(static_cast<uint32_t>(bits) << 16));
}
template <typename T>
__device__ __forceinline__ void store_moment(T& place, T value, uint32_t, int64_t) {
  place = value;
}
template <typename T>
__device__ __forceinline__ void store_moment(uint16_t& place, T value, uint32_t key, int64_t column) {
  place = round_to_bf16(__float_as_uint(static_cast<float>(value)), random_bits(key, static_cast<uint32_t>(column)));
}

// StepNumbers as the kernel multiplies with them, rounded once. For AdamW `lr` has the first correction in it.
template <typename T>
struct StepFactors {
  StepFactors(const StepNumbers& n, Optimizer optimizer)
      : lr(optimizer == Optimizer::kAdamW ? n.lr / n.correction1 : n.lr),
        weight_decay(n.weight_decay),
        keep(1 - n.lr * n.weight_decay),
        momentum(n.momentum),
        to_mean(1 - n.momentum),
        beta2(n.beta2),
        to_square(1 - n.beta2),
        correction2(1 / n.correction2),
        eps(n.eps),
        nesterov(n.nesterov) {}
  T lr, weight_decay, keep, momentum, to_mean, beta2, to_square, correction2, eps;
  bool nesterov;
};

// What the kernel needs of a WeightStep; pointers to the chunk's first row.
template <typename T, typename M>
struct StepRows {
  T* weight;
  M* first;   // null: SGD without momentum
  T* second;  // null: SGD
  StepFactors<T> factors;
  uint64_t rounding_key;
  int64_t first_class;  // of the chunk
};

// One number of a class centre: `gradient` is its true gradient.
template <typename T, typename M>
__device__ __forceinline__ void step_value(const StepRows<T, M>& step, int64_t at, int64_t column, T gradient,
                                           uint32_t key) {
  const StepFactors<T>& f = step.factors;
  T& w = step.weight[at];
  if (step.second != nullptr) {
    const T before = moment_value<T>(step.first[at]);
    const T mean = before + f.to_mean * (gradient - before);
    const T square = f.beta2 * step.second[at] + f.to_square * gradient * gradient;
    store_moment(step.first[at], mean, key, column);
    step.second[at] = square;
    w = f.keep * w - f.lr * mean / (sqrt(square * f.correction2) + f.eps);
    return;
  }
  gradient += f.weight_decay * w;
  if (step.first != nullptr) {
    const T velocity = f.momentum * moment_value<T>(step.first[at]) + gradient;
    store_moment(step.first[at], velocity, key, column);
    gradient = f.nesterov ? gradient + f.momentum * velocity : velocity;
  }
  w -= f.lr * gradient;
}

// One warp a class; see finish_rows of kernels.cuh for the gradient.
template <typename T, typename M>
__global__ void step_rows(StepRows<T, M> step, int64_t size, int64_t dim, const T* gradient, const T* inverse,
                          const T* free, const T* unit) {
  const int64_t j = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (j >= size) return;
  const T* g = gradient + j * dim;
  const T* w = step.weight + j * dim;
  const T scale = inverse[j];
  T along = 0;
  for (int64_t d = lane; d < dim; d += kWarp) along += g[d] * w[d];
  along = warp_sum(along) * scale * scale * free[j];
  const uint32_t key = row_key(step.rounding_key, static_cast<uint64_t>(step.first_class + j));
  for (int64_t d = lane; d < dim; d += kWarp)
    step_value(step, j * dim + d, d, (g[d] - along * w[d]) * scale * *unit, key);
}

}  // namespace facex::cuda
