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

template <typename S>
unsigned blocks_of(int64_t size) {
  return unsigned((size + kThreads * kGroup<S> - 1) / (kThreads * kGroup<S>));
}

void run_forward(const Forward& p) {
  with_types(p.options, p.z, [&](auto activation, auto arith, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    S* z = write<S>(p.z);
    const S *y = read<S>(p.y), *a = read<S>(p.a), *extra = read<S>(p.extra);
    const Inputs<S, T> in{y, a, extra, p.z.numel(), aligned(y, a, extra, z), p.options.skip, T(p.options.div_eps)};
    forward<decltype(activation)::value, decltype(arith)::value, S, T>
        <<<blocks_of<S>(in.size), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(in, z);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void run_backward(const Backward& p) {
  with_types(p.options, p.a, [&](auto activation, auto arith, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    S *dy = write<S>(p.dy), *da = write<S>(p.da);
    const S *grad = read<S>(p.grad), *y = read<S>(p.y), *a = read<S>(p.a);
    const bool all_aligned = aligned(grad, y, a, dy, da);
    const Inputs<S, T> in{y, a, nullptr, p.a.numel(), all_aligned, p.options.skip, T(p.options.div_eps)};
    backward<decltype(activation)::value, decltype(arith)::value, S, T>
        <<<blocks_of<S>(in.size), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(in, grad, dy, da);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void run_folded(const Folded& p) {
  with_types(p.options, p.z, [&](auto activation, auto arith, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    S* z = write<S>(p.z);
    const S *y = read<S>(p.y), *h = read<S>(p.h), *t = read<S>(p.t), *extra = read<S>(p.extra);
    const bool all_aligned = aligned(y, h, t, extra, z);
    const Inputs<S, T> in{y, nullptr, extra, p.z.numel(), all_aligned, p.options.skip, T(p.options.div_eps)};
    const Affine<S, T> affine{h, t, read<T>(p.scale), read<T>(p.shift), read<T>(p.slope), p.channels, p.run};
    folded<decltype(activation)::value, decltype(arith)::value, S, T>
        <<<blocks_of<S>(in.size), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(in, affine, z);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
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
