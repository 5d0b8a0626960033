// CUDA kernels of cosine_logsumexp, over a tile [rows = samples, columns = classes of the chunk] of cosines (columns
// lie together). T is the accumulation type (float or double), O the operand type of the matrix products, W the stored
// weights' type.
#pragma once

#include <cstdint>

#include "rule.h"

namespace facex::cuda {

constexpr int kWarp = 32;
constexpr int kTileThreads = 512;  // threads of a block that walks one row of the tile
constexpr int kRowWarps = 8;       // class rows of a block that handles one row a warp

template <typename T>
__device__ __forceinline__ T minus_infinity() {
  return -static_cast<T>(INFINITY);
}
__device__ __forceinline__ float exponential(float v) { return __expf(v); }
__device__ __forceinline__ double exponential(double v) { return exp(v); }
__device__ __forceinline__ float largest_exponent(float) { return 88.0f; }
__device__ __forceinline__ double largest_exponent(double) { return 700.0; }

// What turns a row's cosines into logits, for one sample.
template <typename T>
struct RowRule {
  T scale, hard_t, threshold;
};

// Pointers and sizes that every tile kernel takes.
template <typename T>
struct Tile {
  T* values;                // [rows, columns]
  int64_t columns;          // of this chunk
  int64_t begin;            // the chunk's first column
  const int64_t* excluded;  // [rows, num_excluded] or null
  int64_t num_excluded;
  const T* bias;       // [columns] of this chunk, or null
  const T* threshold;  // [rows], null for the plain rule
  const T* hard_t;     // [1] or null
  T scale;

  __device__ RowRule<T> rule(int64_t row) const {
    return {scale, hard_t ? *hard_t : T(0), threshold ? threshold[row] : T(0)};
  }
  // The column of the chunk that slot k of a row excludes, or -1.
  __device__ int64_t excluded_column(int64_t row, int64_t k) const {
    const int64_t column = excluded[row * num_excluded + k] - begin;
    return column >= 0 && column < columns ? column : -1;
  }
};

// g(c); -inf (an excluded entry) stays -inf.
template <Rule R, typename T>
__device__ __forceinline__ T apply(T c, const RowRule<T>& rule) {
  if constexpr (R == Rule::kClamp) {
    if (c < -rule.threshold) return c == minus_infinity<T>() ? c : -rule.threshold;
    return c > rule.threshold ? rule.threshold : c;
  } else if constexpr (R == Rule::kZeroAbove) {
    return c > rule.threshold ? T(0) : c;
  } else if constexpr (R == Rule::kHard) {
    return c > rule.threshold ? c * (rule.hard_t + c) : c;
  } else {
    return c;
  }
}

// g'(c)
template <Rule R, typename T>
__device__ __forceinline__ T slope(T c, const RowRule<T>& rule) {
  if constexpr (R == Rule::kClamp) {
    return c < -rule.threshold || c > rule.threshold ? T(0) : T(1);
  } else if constexpr (R == Rule::kZeroAbove) {
    return c > rule.threshold ? T(0) : T(1);
  } else if constexpr (R == Rule::kHard) {
    return c > rule.threshold ? rule.hard_t + T(2) * c : T(1);
  } else {
    return T(1);
  }
}

// Adds (maximum, sum) to a running pair; -inf maxima stand for nothing. A NaN lives on in the sum.
template <typename T>
__device__ __forceinline__ void combine(T& maximum, T& sum, T other_maximum, T other_sum) {
  const T top = other_maximum > maximum ? other_maximum : maximum;
  if (top == minus_infinity<T>()) {
    sum += other_sum;  // 0, or a NaN
    return;
  }
  sum = sum * exponential(maximum - top) + other_sum * exponential(other_maximum - top);
  maximum = top;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Marks the excluded entries of a row with -inf; all threads of the block come back after it is done.
template <typename T>
__device__ __forceinline__ void mark_excluded(const Tile<T>& tile, int64_t row) {
  if (tile.excluded == nullptr) return;
  for (int64_t k = threadIdx.x; k < tile.num_excluded; k += blockDim.x) {
    const int64_t column = tile.excluded_column(row, k);
    if (column >= 0) tile.values[row * tile.columns + column] = minus_infinity<T>();
  }
  __syncthreads();
}

// One block a sample: takes the tile's row into the sample's running maximum and sum.
template <typename T, Rule R>
__global__ void forward_tile(Tile<T> tile, T* maximum, T* sum) {
  const int64_t row = blockIdx.x;
  mark_excluded(tile, row);
  const RowRule<T> rule = tile.rule(row);
  const T* values = tile.values + row * tile.columns;
  T top = minus_infinity<T>(), total = 0;
  for (int64_t j = threadIdx.x; j < tile.columns; j += kTileThreads) {
    const T logit = apply<R>(values[j], rule) * rule.scale + (tile.bias ? tile.bias[j] : T(0));
    if (logit == minus_infinity<T>()) continue;
    if (logit > top) {
      total = total * exponential(top - logit) + T(1);
      top = logit;
    } else {
      total += exponential(logit - top);
    }
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other_top = __shfl_xor_sync(0xffffffffu, top, step),
            other_total = __shfl_xor_sync(0xffffffffu, total, step);
    combine(top, total, other_top, other_total);
  }
  __shared__ T tops[kTileThreads / kWarp], totals[kTileThreads / kWarp];
  if (threadIdx.x % kWarp == 0) {
    tops[threadIdx.x / kWarp] = top;
    totals[threadIdx.x / kWarp] = total;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  T running = maximum[row], running_sum = sum[row];
  for (int warp = 0; warp < kTileThreads / kWarp; ++warp) combine(running, running_sum, tops[warp], totals[warp]);
  maximum[row] = running;
  sum[row] = running_sum;
}

// The gradient of the loss with respect to one logit: probability * upstream gradient; 0 for excluded entries and empty
// rows.
template <Rule R, typename T>
__device__ __forceinline__ T logit_gradient(T c, T bias, T lse, T grad, const RowRule<T>& rule) {
  if (c == minus_infinity<T>() || lse == minus_infinity<T>()) return T(0);
  const T over = apply<R>(c, rule) * rule.scale + bias - lse;
  const T most = largest_exponent(T(0));
  return exponential(over > most ? most : over) * grad;
}

// One block a sample: gradients of the cosines, divided by *unit (a common factor that keeps fp16 in range), as
// operands.
template <typename T, typename O, Rule R>
__global__ void backward_tile(Tile<T> tile, const T* lse, const T* grad_neg, const T* excluded_grad, const T* unit,
                              O* gradients) {
  const int64_t row = blockIdx.x;
  mark_excluded(tile, row);
  const RowRule<T> rule = tile.rule(row);
  const T* values = tile.values + row * tile.columns;
  O* out = gradients + row * tile.columns;
  const T inverse_unit = T(1) / *unit, row_lse = lse[row], row_grad = grad_neg[row] * inverse_unit;
  for (int64_t j = threadIdx.x; j < tile.columns; j += kTileThreads) {
    const T c = values[j];
    const T logit_grad = logit_gradient<R>(c, tile.bias ? tile.bias[j] : T(0), row_lse, row_grad, rule);
    const T gradient = c == minus_infinity<T>() ? T(0) : logit_grad * rule.scale * slope<R>(c, rule);
    out[j] = static_cast<O>(gradient);
  }
  if (excluded_grad == nullptr || tile.excluded == nullptr) return;
  __syncthreads();
  for (int64_t k = threadIdx.x; k < tile.num_excluded; k += blockDim.x) {
    const int64_t column = tile.excluded_column(row, k);
    if (column < 0) continue;
    bool first = true;  // equal columns add up, in the first of them
    for (int64_t other = 0; other < k; ++other) first = first && tile.excluded_column(row, other) != column;
    if (!first) continue;
    T total = 0;
    for (int64_t other = k; other < tile.num_excluded; ++other) {
      if (tile.excluded_column(row, other) == column) total += excluded_grad[row * tile.num_excluded + other];
    }
    out[column] = static_cast<O>(total * inverse_unit);
  }
}

// One thread a class: the bias's gradient, from the tile that backward_tile has marked.
template <typename T, Rule R>
__global__ void bias_gradient(Tile<T> tile, int64_t rows, const T* lse, const T* grad_neg, T* dbias) {
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= tile.columns) return;
  T total = 0;
  for (int64_t row = 0; row < rows; ++row) {
    total += logit_gradient<R>(tile.values[row * tile.columns + column], tile.bias[column], lse[row], grad_neg[row],
                               tile.rule(row));
  }
  dbias[column] += total;
}

// Where a chunk's class rows lie in the stored weights.
template <typename W>
struct Rows {
  const W* weight;        // [C, dim]
  const int64_t* subset;  // [columns] or null
  int64_t begin, size, dim;

  __device__ const W* row(int64_t j) const { return weight + (subset ? subset[begin + j] : begin + j) * dim; }
};

// One warp a class: 1 / |w|, whether a gradient flows through |w| (1 or 0), and w / |w| as an operand [size, dim].
template <typename T, typename O, typename W>
__global__ void pack_weights(Rows<W> rows, bool normalize, T floor, T* inverse, T* free, O* packed) {
  const int64_t j = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (j >= rows.size) return;
  const W* w = rows.row(j);
  T scale = 1, flows = 0;
  if (normalize) {
    T squares = 0;
    for (int64_t d = lane; d < rows.dim; d += kWarp) squares += static_cast<T>(w[d]) * static_cast<T>(w[d]);
    const T norm = sqrt(warp_sum(squares));
    flows = norm < floor ? T(0) : T(1);
    scale = T(1) / (norm < floor ? floor : norm);
  }
  if (lane == 0) {
    inverse[j] = scale;
    free[j] = flows;
  }
  for (int64_t d = lane; d < rows.dim; d += kWarp)
    packed[j * rows.dim + d] = static_cast<O>(static_cast<T>(w[d]) * scale);
}

// One warp a class: from the gradient of w / |w| (in units of *unit) to that of w, written or added to `out` [size,
// dim].
template <typename T, typename W>
__global__ void finish_rows(Rows<W> rows, const T* gradient, const T* inverse, const T* free, const T* unit,
                            bool accumulate, T* out) {
  const int64_t j = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (j >= rows.size) return;
  const W* w = rows.row(j);
  const T* g = gradient + j * rows.dim;
  T* o = out + j * rows.dim;
  const T scale = inverse[j];
  T along = 0;
  for (int64_t d = lane; d < rows.dim; d += kWarp) along += g[d] * static_cast<T>(w[d]);
  along = warp_sum(along) * scale * scale * free[j];
  for (int64_t d = lane; d < rows.dim; d += kWarp) {
    const T value = (g[d] - along * static_cast<T>(w[d])) * scale * *unit;
    o[d] = accumulate ? o[d] + value : value;
  }
}

}  // namespace facex::cuda
