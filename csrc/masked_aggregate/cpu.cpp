// mask_aggregate on the CPU: workers walk flat ranges in blocks of the first cache's size; inputs are read and outputs
// written once. (Stores past the caches were slower here, also for outputs that no cache holds.)
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "cpu_kernels.h"
#include "cpu_targets.h"
#include "huge_pages.h"
#include "operators.h"

namespace facex::mask::cpu {
namespace {

using facex::cpu::launch;

constexpr int64_t kBlock = 1024;         // elements: five arrays of them are in the first cache
constexpr int64_t kGrain = 16 * kBlock;  // elements that are worth a worker of their own

// An input block by block in the compute type T: in place where that is the storage type S, otherwise widened into a
// buffer. One for each worker.
template <typename S, typename T>
class Source {
 public:
  explicit Source(const at::Tensor& tensor) : data_(tensor.defined() ? tensor.const_data_ptr<S>() : nullptr) {}

  const T* read(int64_t begin, int64_t size) {
    if (data_ == nullptr) return nullptr;
    if constexpr (std::is_same_v<S, T>) {
      return data_ + begin;
    } else {
      launch<WidenKernel<S>>(data_ + begin, buffer_, size);
      return buffer_;
    }
  }

 private:
  const S* data_;
  alignas(64) T buffer_[kBlock];
};

// An output likewise, which may be absent: `write` is where a kernel puts the block, `written` brings it to the tensor.
template <typename S, typename T>
class Sink {
 public:
  explicit Sink(const at::Tensor& tensor) : data_(tensor.defined() ? tensor.mutable_data_ptr<S>() : nullptr) {}

  T* write(int64_t begin) {
    if constexpr (std::is_same_v<S, T>) {
      if (data_ != nullptr) return data_ + begin;
    }
    return buffer_;
  }
  void written(int64_t begin, int64_t size) {
    if constexpr (!std::is_same_v<S, T>) {
      if (data_ != nullptr) launch<NarrowKernel<S>>(buffer_, data_ + begin, size);
    }
  }

 private:
  S* data_;
  alignas(64) T buffer_[kBlock];
};

// Calls visit(activation, arith, skip, storage value, compute value); the values stand for their types.
template <typename Visit>
void with_types(const Options& options, const at::Tensor& tensor, const Visit& visit) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, tensor.scalar_type(), "facex_mask_aggregate", [&] {
    using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    with_options(options, [&](auto activation, auto arith) {
      if (options.skip) {
        visit(activation, arith, std::true_type(), scalar_t(), T());
      } else {
        visit(activation, arith, std::false_type(), scalar_t(), T());
      }
    });
  });
}

// Every worker makes its state once and calls body(state, begin, size) for each of its blocks.
template <typename Make, typename Body>
void walk(int64_t elements, const Make& make, const Body& body) {
  const int64_t blocks = (elements + kBlock - 1) / kBlock;
  at::parallel_for(0, blocks, kGrain / kBlock, [&](int64_t first, int64_t last) {
    auto state = make();
    for (int64_t b = first; b < last; ++b) body(state, b * kBlock, std::min(kBlock, elements - b * kBlock));
  });
}

template <typename S, typename T>
struct ForwardState {
  explicit ForwardState(const Forward& p) : y(p.y), a(p.a), extra(p.extra), z(p.z) {}
  Source<S, T> y, a, extra;
  Sink<S, T> z;
};

template <typename S, typename T>
struct FoldedState {
  explicit FoldedState(const Folded& p) : y(p.y), h(p.h), t(p.t), extra(p.extra), z(p.z) {}
  Source<S, T> y, h, t, extra;
  Sink<S, T> z;
  alignas(64) T a[kBlock];
};

template <typename S, typename T>
struct BackwardState {
  explicit BackwardState(const Backward& p) : grad(p.grad), y(p.y), a(p.a), dy(p.dy), da(p.da) {}
  Source<S, T> grad, y, a;
  Sink<S, T> dy, da;
};

void run_forward(const Forward& p) {
  with_types(p.options, p.z, [&](auto activation, auto arith, auto skip, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    using Kernel = ForwardKernel<activation.value, arith.value, skip.value, T>;
    walk(
        p.z.numel(), [&] { return ForwardState<S, T>(p); },
        [&](ForwardState<S, T>& state, int64_t begin, int64_t size) {
          launch<Kernel>(ForwardBlock<T>{state.y.read(begin, size), state.a.read(begin, size),
                                         state.extra.read(begin, size), state.z.write(begin), size,
                                         T(p.options.div_eps)});
          state.z.written(begin, size);
        });
  });
}

void run_backward(const Backward& p) {
  with_types(p.options, p.a, [&](auto activation, auto arith, auto skip, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    using Kernel = BackwardKernel<activation.value, arith.value, skip.value, T>;
    walk(
        p.a.numel(), [&] { return BackwardState<S, T>(p); },
        [&](BackwardState<S, T>& state, int64_t begin, int64_t size) {
          launch<Kernel>(BackwardBlock<T>{state.grad.read(begin, size), state.y.read(begin, size),
                                          state.a.read(begin, size), state.dy.write(begin), state.da.write(begin), size,
                                          T(p.options.div_eps)});
          state.dy.written(begin, size);
          state.da.written(begin, size);
        });
  });
}

// The block's activations: stretches of one channel (NCHW), or of consecutive channels (channels last, run = 1).
template <typename T>
void activate(const Folded& p, const T* h, const T* t, int64_t begin, int64_t size, T* a) {
  const T *scale = p.scale.const_data_ptr<T>(), *shift = p.shift.const_data_ptr<T>();
  const T* slope = p.slope.const_data_ptr<T>();
  for (int64_t done = 0; done < size;) {
    const int64_t i = begin + done, c = i / p.run % p.channels;
    const int64_t left = p.run == 1 ? p.channels - c : p.run - i % p.run;
    const int64_t count = std::min(left, size - done);
    if (p.run == 1) {
      launch<FoldedKernel<true, T>>(h + done, t + done, scale + c, shift + c, slope + c, a + done, count);
    } else {
      launch<FoldedKernel<false, T>>(h + done, t + done, scale + c, shift + c, slope + c, a + done, count);
    }
    done += count;
  }
}

void run_folded(const Folded& p) {
  with_types(p.options, p.z, [&](auto activation, auto arith, auto skip, auto storage, auto compute) {
    using S = decltype(storage);
    using T = decltype(compute);
    using Kernel = ForwardKernel<activation.value, arith.value, skip.value, T>;
    walk(
        p.z.numel(), [&] { return FoldedState<S, T>(p); },
        [&](FoldedState<S, T>& state, int64_t begin, int64_t size) {
          activate(p, state.h.read(begin, size), state.t.read(begin, size), begin, size, state.a);
          launch<Kernel>(ForwardBlock<T>{state.y.read(begin, size), state.a, state.extra.read(begin, size),
                                         state.z.write(begin), size, T(p.options.div_eps)});
          state.z.written(begin, size);
        });
  });
}

struct Backend {
  static at::Tensor prepared(at::Tensor tensor) { return on_huge_pages(std::move(tensor)); }
  static void forward(const Forward& p) { run_forward(p); }
  static void backward(const Backward& p) { run_backward(p); }
  static void folded(const Folded& p) { run_folded(p); }
};

}  // namespace
}  // namespace facex::mask::cpu

TORCH_LIBRARY_IMPL(facex, CPU, m) { facex::mask::Operators<facex::mask::cpu::Backend>::implement(m); }
