// mask_aggregate on CUDA: one thread moves 16 bytes of every tensor, so that the kernels run at the memory's speed; no
// host synchronisation, everything on the current stream.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels.cuh"
#include "operators.h"

namespace facex::mask::cuda {
namespace {

// Calls visit(activation, arith, storage value, compute value); the values stand for their types.
template <typename Visit>
void with_types(const Options& options, const at::Tensor& tensor, const Visit& visit) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, tensor.scalar_type(), "facex_mask_aggregate", [&] {
    using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    with_options(options, [&](auto activation, auto arith) { visit(activation, arith, scalar_t(), T()); });
  });
}

template <typename S>
const S* read(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<S>() : nullptr;
}

template <typename S>
S* write(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<S>() : nullptr;
}

// Whether every pointer can be accessed 16 bytes at a time; null ones are not accessed.
template <typename... Pointers>
bool aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % kBytes == 0) && ...);
}

// Launches kernel<true> over groups of 16 bytes, or kernel<false> over single elements.
template <typename S, typename Wide, typename Narrow>
void launch(bool wide, int64_t size, const Wide& with_groups, const Narrow& one_by_one) {
  const int64_t items = wide ? (size + kGroup<S> - 1) / kGroup<S> : size;
  const unsigned blocks = unsigned((items + kThreads - 1) / kThreads);
  if (wide) {
    with_groups(blocks);
  } else {
    one_by_one(blocks);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void run_forward(const Forward& p) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  with_types(p.options, p.z, [&](auto activation, auto arith, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    constexpr Activation kA = decltype(activation)::value;
    constexpr Arith kR = decltype(arith)::value;
    const Inputs<S, T> in{read<S>(p.y), read<S>(p.a),   read<S>(p.extra),
                          p.z.numel(),  p.options.skip, T(p.options.div_eps)};
    S* z = write<S>(p.z);
    launch<S>(
        aligned(in.y, in.a, in.extra, z), in.size,
        [&](unsigned blocks) { forward<kA, kR, kGroup<S>, S, T><<<blocks, kThreads, 0, stream>>>(in, z); },
        [&](unsigned blocks) { forward<kA, kR, 1, S, T><<<blocks, kThreads, 0, stream>>>(in, z); });
  });
}

void run_backward(const Backward& p) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  with_types(p.options, p.a, [&](auto activation, auto arith, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    constexpr Activation kA = decltype(activation)::value;
    constexpr Arith kR = decltype(arith)::value;
    const Inputs<S, T> in{read<S>(p.y), read<S>(p.a), nullptr, p.a.numel(), p.options.skip, T(p.options.div_eps)};
    const S* grad = read<S>(p.grad);
    S *dy = write<S>(p.dy), *da = write<S>(p.da);
    launch<S>(
        aligned(in.y, in.a, grad, dy, da), in.size,
        [&](unsigned blocks) { backward<kA, kR, kGroup<S>, S, T><<<blocks, kThreads, 0, stream>>>(in, grad, dy, da); },
        [&](unsigned blocks) { backward<kA, kR, 1, S, T><<<blocks, kThreads, 0, stream>>>(in, grad, dy, da); });
  });
}

void run_folded(const Folded& p) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  with_types(p.options, p.z, [&](auto activation, auto arith, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    constexpr Activation kA = decltype(activation)::value;
    constexpr Arith kR = decltype(arith)::value;
    const Inputs<S, T> in{read<S>(p.y), nullptr, read<S>(p.extra), p.z.numel(), p.options.skip, T(p.options.div_eps)};
    const Affine<S, T> affine{read<S>(p.h), read<S>(p.t), read<T>(p.scale), read<T>(p.shift), read<T>(p.slope),
                              p.channels,   p.run};
    S* z = write<S>(p.z);
    launch<S>(
        aligned(in.y, affine.h, affine.t, in.extra, z), in.size,
        [&](unsigned blocks) { folded<kA, kR, kGroup<S>, S, T><<<blocks, kThreads, 0, stream>>>(in, affine, z); },
        [&](unsigned blocks) { folded<kA, kR, 1, S, T><<<blocks, kThreads, 0, stream>>>(in, affine, z); });
  });
}

struct Backend {
  static at::Tensor prepared(at::Tensor tensor) { return tensor; }

  static void forward(const Forward& p) {
    const c10::cuda::CUDAGuard guard(p.z.device());
    run_forward(p);
  }
  static void backward(const Backward& p) {
    const c10::cuda::CUDAGuard guard(p.a.device());
    run_backward(p);
  }
  static void folded(const Folded& p) {
    const c10::cuda::CUDAGuard guard(p.z.device());
    run_folded(p);
  }
};

}  // namespace
}  // namespace facex::mask::cuda

TORCH_LIBRARY_IMPL(facex, CUDA, m) { facex::mask::Operators<facex::mask::cuda::Backend>::implement(m); }
