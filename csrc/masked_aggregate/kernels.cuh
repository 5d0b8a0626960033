// CUDA kernels of mask_aggregate over flat ranges. S is the storage type, T the compute type (float or double), N the
// elements of a thread: 16 bytes' worth, or 1 where a pointer is not aligned.
#pragma once

#include <cstdint>

#include "formulas.h"

namespace facex::mask::cuda {

constexpr int kThreads = 256;
constexpr int kBytes = 16;  // of one memory access

template <typename S>
constexpr int kGroup = kBytes / int(sizeof(S));

struct Math {
  static __device__ __forceinline__ float exp(float x) { return ::expf(x); }
  static __device__ __forceinline__ double exp(double x) { return ::exp(x); }
  static __device__ __forceinline__ float reciprocal(float x) { return __fdividef(1.0f, x); }
  static __device__ __forceinline__ double reciprocal(double x) { return 1.0 / x; }
};

// N elements that are read or written in one access.
template <typename S, int N>
struct alignas(sizeof(S) * N) Group {
  S values[N];
};

// Some of a tensor's elements in the compute type.
template <typename T, int N>
struct Values {
  T at[N];
};

// Element `begin` and those after it, as far as the range of `size` goes; zeros without a tensor.
template <int N, typename T, typename S>
__device__ __forceinline__ Values<T, N> load(const S* data, int64_t begin, int64_t size) {
  Values<T, N> out = {};
  if (data == nullptr) return out;
  if (begin + N <= size) {
    const Group<S, N> group = *reinterpret_cast<const Group<S, N>*>(data + begin);
#pragma unroll
    for (int i = 0; i < N; ++i) out.at[i] = static_cast<T>(group.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (begin + i < size) out.at[i] = static_cast<T>(data[begin + i]);
    }
  }
  return out;
}

template <int N, typename T, typename S>
__device__ __forceinline__ void store(S* data, int64_t begin, int64_t size, const Values<T, N>& in) {
  if (data == nullptr) return;
  if (begin + N <= size) {
    Group<S, N> group;
#pragma unroll
    for (int i = 0; i < N; ++i) group.values[i] = static_cast<S>(in.at[i]);
    *reinterpret_cast<Group<S, N>*>(data + begin) = group;
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (begin + i < size) data[begin + i] = static_cast<S>(in.at[i]);
    }
  }
}

// What every kernel takes; `extra` and, for add and sub, `y` may be null in the backward pass.
template <typename S, typename T>
struct Inputs {
  const S *y, *a, *extra;
  int64_t size;
  bool skip;
  T div_eps;
};

// What a folded kernel computes `a` from: h and t flat, [C] coefficients; the channel of element i is i / run %
// channels.
template <typename S, typename T>
struct Affine {
  const S *h, *t;
  const T *scale, *shift, *slope;
  int64_t channels, run;
};

template <int N>
__device__ __forceinline__ int64_t first_element() {
  return (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
}

// arith(y, act(a)) (+ extra) (+ y), written.
template <Activation A, Arith R, int N, typename S, typename T>
__device__ __forceinline__ void finish(const Inputs<S, T>& in, int64_t begin, const Values<T, N>& y,
                                       const Values<T, N>& a, S* z) {
  const Values<T, N> extra = load<N, T>(in.extra, begin, in.size);
  Values<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    T value = masked<A, R, Math>(y.at[i], a.at[i], in.div_eps);
    if (in.extra != nullptr) value += extra.at[i];
    out.at[i] = in.skip ? value + y.at[i] : value;
  }
  store<N>(z, begin, in.size, out);
}

template <Activation A, Arith R, int N, typename S, typename T>
__global__ void __launch_bounds__(kThreads) forward(Inputs<S, T> in, S* z) {
  const int64_t begin = first_element<N>();
  if (begin >= in.size) return;
  const Values<T, N> y = load<N, T>(in.y, begin, in.size), a = load<N, T>(in.a, begin, in.size);
  finish<A, R, N>(in, begin, y, a, z);
}

template <Activation A, Arith R, int N, typename S, typename T>
__global__ void __launch_bounds__(kThreads) folded(Inputs<S, T> in, Affine<S, T> affine, S* z) {
  const int64_t begin = first_element<N>();
  if (begin >= in.size) return;
  const Values<T, N> y = load<N, T>(in.y, begin, in.size), h = load<N, T>(affine.h, begin, in.size);
  const Values<T, N> t = load<N, T>(affine.t, begin, in.size);
  Values<T, N> a;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int64_t c = (begin + i) / affine.run % affine.channels;
    a.at[i] = folded_activation(h.at[i], t.at[i], affine.scale[c], affine.shift[c], affine.slope[c]);
  }
  finish<A, R, N>(in, begin, y, a, z);
}

template <Activation A, Arith R, int N, typename S, typename T>
__global__ void __launch_bounds__(kThreads) backward(Inputs<S, T> in, const S* grad, S* dy, S* da) {
  const int64_t begin = first_element<N>();
  if (begin >= in.size) return;
  const Values<T, N> g = load<N, T>(grad, begin, in.size), a = load<N, T>(in.a, begin, in.size);
  const Values<T, N> y = load<N, T>(needs_features(R) ? in.y : nullptr, begin, in.size);
  Values<T, N> out_y, out_a;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const Gradients<T> d = masked_gradients<A, R, Math>(g.at[i], y.at[i], a.at[i], in.div_eps);
    out_y.at[i] = in.skip ? d.y + g.at[i] : d.y;
    out_a.at[i] = d.a;
  }
  store<N>(dy, begin, in.size, out_y);
  store<N>(da, begin, in.size, out_a);
}

}  // namespace facex::mask::cuda
