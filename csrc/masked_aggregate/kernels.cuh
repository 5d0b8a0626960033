// CUDA kernels of mask_aggregate over flat ranges. S is the storage type, T the compute type (float or double), N the
// elements of a thread: 16 bytes' worth.
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

// A thread's elements of the range [0, size): in one access where all of them are inside and pointers are aligned.
struct Place {
  int64_t begin, size;
  bool whole;
};

// The elements at a place; zeros without a tensor and outside the range.
template <int N, typename T, typename S>
__device__ __forceinline__ Values<T, N> load(const S* data, const Place& place) {
  Values<T, N> out = {};
  if (data == nullptr) return out;
  if (place.whole) {
    const Group<S, N> group = *reinterpret_cast<const Group<S, N>*>(data + place.begin);
#pragma unroll
    for (int i = 0; i < N; ++i) out.at[i] = static_cast<T>(group.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (place.begin + i < place.size) out.at[i] = static_cast<T>(data[place.begin + i]);
    }
  }
  return out;
}

template <int N, typename T, typename S>
__device__ __forceinline__ void store(S* data, const Place& place, const Values<T, N>& in) {
  if (data == nullptr) return;
  if (place.whole) {
    Group<S, N> group;
#pragma unroll
    for (int i = 0; i < N; ++i) group.values[i] = static_cast<S>(in.at[i]);
    *reinterpret_cast<Group<S, N>*>(data + place.begin) = group;
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (place.begin + i < place.size) data[place.begin + i] = static_cast<S>(in.at[i]);
    }
  }
}

// What every kernel takes; `extra` and, for add and sub, `y` may be null in the backward pass.
template <typename S, typename T>
struct Inputs {
  const S *y, *a, *extra;
  int64_t size;
  bool aligned;  // every pointer, to 16 bytes
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

template <int N, typename S, typename T>
__device__ __forceinline__ Place place_of_thread(const Inputs<S, T>& in) {
  const int64_t begin = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N;
  return {begin, in.size, in.aligned && begin + N <= in.size};
}

// arith(y, act(a)) (+ extra) (+ y), written.
template <Activation A, Arith R, int N, typename S, typename T>
__device__ __forceinline__ void finish(const Inputs<S, T>& in, const Place& place, const Values<T, N>& y,
                                       const Values<T, N>& a, S* z) {
  const Values<T, N> extra = load<N, T>(in.extra, place);
  Values<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    T value = masked<A, R, Math>(y.at[i], a.at[i], in.div_eps);
    if (in.extra != nullptr) value += extra.at[i];
    out.at[i] = in.skip ? value + y.at[i] : value;
  }
  store<N>(z, place, out);
}

template <Activation A, Arith R, typename S, typename T>
__global__ void __launch_bounds__(kThreads) forward(Inputs<S, T> in, S* z) {
  constexpr int N = kGroup<S>;
  const Place place = place_of_thread<N>(in);
  if (place.begin >= in.size) return;
  const Values<T, N> y = load<N, T>(in.y, place), a = load<N, T>(in.a, place);
  finish<A, R, N>(in, place, y, a, z);
}

template <Activation A, Arith R, typename S, typename T>
__global__ void __launch_bounds__(kThreads) folded(Inputs<S, T> in, Affine<S, T> affine, S* z) {
  constexpr int N = kGroup<S>;
  const Place place = place_of_thread<N>(in);
  if (place.begin >= in.size) return;
  const Values<T, N> y = load<N, T>(in.y, place), h = load<N, T>(affine.h, place);
  const Values<T, N> t = load<N, T>(affine.t, place);
  Values<T, N> a;
  // Divisions of 64-bit integers are slow: one a thread, then counting.
  const int64_t stretch = place.begin / affine.run;
  int64_t c = stretch % affine.channels, left = affine.run - (place.begin - stretch * affine.run);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    a.at[i] = folded_activation(h.at[i], t.at[i], affine.scale[c], affine.shift[c], affine.slope[c]);
    if (--left == 0) {
      left = affine.run;
      c = c + 1 == affine.channels ? 0 : c + 1;
    }
  }
  finish<A, R, N>(in, place, y, a, z);
}

template <Activation A, Arith R, typename S, typename T>
__global__ void __launch_bounds__(kThreads) backward(Inputs<S, T> in, const S* grad, S* dy, S* da) {
  constexpr int N = kGroup<S>;
  const Place place = place_of_thread<N>(in);
  if (place.begin >= in.size) return;
  const Values<T, N> g = load<N, T>(grad, place), a = load<N, T>(in.a, place);
  const Values<T, N> y = load<N, T>(needs_features(R) ? in.y : nullptr, place);
  Values<T, N> out_y, out_a;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const Gradients<T> d = masked_gradients<A, R, Math>(g.at[i], y.at[i], a.at[i], in.div_eps);
    out_y.at[i] = in.skip ? d.y + g.at[i] : d.y;
    out_a.at[i] = d.a;
  }
  store<N>(dy, place, out_y);
  store<N>(da, place, out_a);
}

}  // namespace facex::mask::cuda
