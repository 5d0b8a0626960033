#include "cpu_step.h"

#include <bit>
#include <cmath>

#include "rounding.h"
#include "simd.h"

namespace facex::cpu {
namespace {

template <typename T>
FACEX_INLINE T load(T value) {
  return value;
}
template <typename T>
FACEX_INLINE T load(uint16_t bits) {
  return static_cast<T>(std::bit_cast<float>(uint32_t(bits) << 16));
}
template <typename T>
FACEX_INLINE void store(T& place, T value, uint32_t, uint32_t) {
  place = value;
}
template <typename T>
FACEX_INLINE void store(uint16_t& place, T value, uint32_t key, uint32_t column) {
  place = round_to_bf16(std::bit_cast<uint32_t>(static_cast<float>(value)), random_bits(key, column));
}

template <typename T>
FACEX_INLINE void sgd_row(T* __restrict w, const T* __restrict g, int64_t dim, const StepNumbers& n) {
  const T lr = T(n.lr), decay = T(n.weight_decay);
#pragma omp simd
  for (int64_t d = 0; d < dim; ++d) w[d] -= lr * (g[d] + decay * w[d]);
}

template <typename T, typename M>
FACEX_INLINE void momentum_row(T* __restrict w, const T* __restrict g, M* __restrict buffer, int64_t dim,
                               const StepNumbers& n, uint32_t key) {
  const T lr = T(n.lr), decay = T(n.weight_decay), momentum = T(n.momentum);
  const T from_gradient = n.nesterov ? T(1) : T(0), from_buffer = n.nesterov ? momentum : T(1);
#pragma omp simd
  for (int64_t d = 0; d < dim; ++d) {
    const T gradient = g[d] + decay * w[d];
    const T velocity = momentum * load<T>(buffer[d]) + gradient;
    store(buffer[d], velocity, key, uint32_t(d));
    w[d] -= lr * (from_gradient * gradient + from_buffer * velocity);
  }
}

template <typename T, typename M>
FACEX_INLINE void adamw_row(T* __restrict w, const T* __restrict g, M* __restrict first, T* __restrict second,
                            int64_t dim, const StepNumbers& n, uint32_t key) {
  const T keep = T(1 - n.lr * n.weight_decay), lr = T(n.lr / n.correction1), eps = T(n.eps);
  const T one = T(1 - n.momentum), beta2 = T(n.beta2), two = T(1 - n.beta2), correction2 = T(1 / n.correction2);
#pragma omp simd
  for (int64_t d = 0; d < dim; ++d) {
    const T before = load<T>(first[d]);
    const T mean = before + one * (g[d] - before), square = beta2 * second[d] + two * g[d] * g[d];
    store(first[d], mean, key, uint32_t(d));
    second[d] = square;
    w[d] = keep * w[d] - lr * mean / (std::sqrt(square * correction2) + eps);
  }
}

template <typename T, typename M>
FACEX_INLINE void rows_with_moment(const WeightStep& step, int64_t begin, int64_t rows, int64_t dim, const T* gradient,
                                   M* first) {
  T* weight = step.weight.mutable_data_ptr<T>() + begin * dim;
  T* second = step.second.defined() ? step.second.mutable_data_ptr<T>() + begin * dim : nullptr;
  for (int64_t j = 0; j < rows; ++j) {
    const uint32_t key = row_key(step.rounding_key, uint64_t(step.first_class + begin + j));
    const int64_t at = j * dim;
    if (second) {
      adamw_row(weight + at, gradient + at, first + at, second + at, dim, step.numbers, key);
    } else {
      momentum_row(weight + at, gradient + at, first + at, dim, step.numbers, key);
    }
  }
}

template <typename T>
FACEX_INLINE void step_rows_of(const WeightStep& step, int64_t begin, int64_t rows, int64_t dim, const T* gradient) {
  if (!step.first.defined()) {
    T* weight = step.weight.mutable_data_ptr<T>() + begin * dim;
    for (int64_t j = 0; j < rows; ++j) sgd_row(weight + j * dim, gradient + j * dim, dim, step.numbers);
  } else if (step.first_in_bf16()) {
    auto* first = reinterpret_cast<uint16_t*>(step.first.mutable_data_ptr<at::BFloat16>()) + begin * dim;
    rows_with_moment(step, begin, rows, dim, gradient, first);
  } else {
    rows_with_moment(step, begin, rows, dim, gradient, step.first.mutable_data_ptr<T>() + begin * dim);
  }
}

}  // namespace

FACEX_CLONES void step_rows(const WeightStep& step, int64_t begin, int64_t rows, int64_t dim, const float* gradient) {
  step_rows_of(step, begin, rows, dim, gradient);
}
FACEX_CLONES void step_rows(const WeightStep& step, int64_t begin, int64_t rows, int64_t dim, const double* gradient) {
  step_rows_of(step, begin, rows, dim, gradient);
}

}  // namespace facex::cpu
