// cosine_logsumexp on CUDA: the classes are walked in chunks whose tile of cosines stays in the L2 cache; cuBLAS
// multiplies into the tile, one fused kernel reads it. Never a B x C tensor, no host synchronisation, everything on the
// current stream.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "kernels.cuh"
#include "operators.h"
#include "problem.h"
#include "step.h"
#include "step_kernels.cuh"

namespace facex::cuda {
namespace {

constexpr int64_t kTileBytes = int64_t(16)
                               << 20;  // a third of an H100's L2: the tile, its gradients and the weights share it
constexpr int64_t kMinChunk = 1024, kMaxChunk = 8192;

int64_t chunk_size(const Problem& p) {
  const int64_t fitting = kTileBytes / (std::max<int64_t>(1, p.batch) * int64_t(p.x.element_size())) / 256 * 256;
  return std::min(std::max<int64_t>(1, p.columns), std::clamp(fitting, kMinChunk, kMaxChunk));
}

at::ScalarType operand_type(const Problem& p) {
  if (p.compute == Compute::kFull) return p.type();
  return p.compute == Compute::kBf16 ? at::kBFloat16 : at::kHalf;
}

// out = a . b with sums and result in out's type.
void multiply(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == out.scalar_type()) {
    at::mm_out(out, a, b);
  } else {
    at::mm_out(out, a, b, out.scalar_type());
  }
}

template <typename T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

unsigned row_blocks(int64_t rows) { return unsigned((rows + kRowWarps - 1) / kRowWarps); }

template <typename T>
at::Tensor chosen_bias(const Problem& p) {
  return p.bias.defined() && p.subset.defined() ? p.bias.index_select(0, p.subset) : p.bias;
}

// Buffers of one call, reused by every chunk. T: accumulation type, O: operand type.
template <typename T, typename O>
class Walk {
 public:
  explicit Walk(const Problem& p)
      : p_(p),
        chunk_(chunk_size(p)),
        stream_(at::cuda::getCurrentCUDAStream()),
        x_(p.x.to(operand_type(p))),
        bias_(chosen_bias<T>(p)),
        packed_(at::empty({chunk_, p.dim}, x_.options())),
        inverse_(at::empty({chunk_}, p.x.options())),
        free_(at::empty({chunk_}, p.x.options())),
        tile_(at::empty({p.batch * chunk_}, p.x.options())) {}

  template <typename Visit>
  void chunks(const Visit& visit) {
    for (int64_t begin = 0; begin < p_.columns; begin += chunk_) visit(begin, std::min(chunk_, p_.columns - begin));
  }

  // The chunk's rows as an operand, and the tile of cosines.
  Tile<T> load(int64_t begin, int64_t size) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, p_.weight.scalar_type(), "facex_pack_weights", [&] {
      pack_weights<T, O, scalar_t><<<row_blocks(size), kRowWarps * kWarp, 0, stream_>>>(
          rows<scalar_t>(begin, size), p_.normalize, T(kNormFloor), inverse_.mutable_data_ptr<T>(),
          free_.mutable_data_ptr<T>(), packed_.mutable_data_ptr<O>());
    });
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    at::Tensor values = tile_.narrow(0, 0, p_.batch * size).view({p_.batch, size});
    multiply(values, x_, packed(size).t());
    return {.values = values.mutable_data_ptr<T>(),
            .columns = size,
            .begin = begin,
            .excluded = p_.num_excluded ? p_.excluded.const_data_ptr<int64_t>() : nullptr,
            .num_excluded = p_.num_excluded,
            .bias = bias_.defined() ? bias_.const_data_ptr<T>() + begin : nullptr,
            .threshold = data_or_null<T>(p_.threshold),
            .hard_t = data_or_null<T>(p_.hard_t),
            .scale = T(p_.scale)};
  }

  // dweight of the chunk from the gradient of its normalised rows.
  void finish(int64_t begin, int64_t size, const at::Tensor& gradient, const at::Tensor& unit, bool accumulate,
              at::Tensor& dweight) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, p_.weight.scalar_type(), "facex_finish_rows", [&] {
      finish_rows<T, scalar_t><<<row_blocks(size), kRowWarps * kWarp, 0, stream_>>>(
          rows<scalar_t>(begin, size), gradient.const_data_ptr<T>(), inverse_.const_data_ptr<T>(),
          free_.const_data_ptr<T>(), unit.const_data_ptr<T>(), accumulate,
          dweight.mutable_data_ptr<T>() + begin * p_.dim);
    });
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // The optimizer step of the chunk's rows from the gradient of its normalised rows.
  void step(const WeightStep& step, int64_t begin, int64_t size, const at::Tensor& gradient, const at::Tensor& unit) {
    if (step.first_in_bf16()) {
      auto* first = reinterpret_cast<uint16_t*>(step.first.mutable_data_ptr<at::BFloat16>());
      launch_step(step, first, begin, size, gradient, unit);
    } else {
      launch_step(step, step.first.defined() ? step.first.mutable_data_ptr<T>() : nullptr, begin, size, gradient, unit);
    }
  }

  at::Tensor packed(int64_t size) const { return packed_.narrow(0, 0, size); }  // [size, D] operand
  const at::Tensor& x() const { return x_; }                                    // [B, D] operand
  int64_t chunk() const { return chunk_; }
  cudaStream_t stream() const { return stream_; }

 private:
  template <typename W>
  Rows<W> rows(int64_t begin, int64_t size) const {
    return {p_.weight.const_data_ptr<W>(), data_or_null<int64_t>(p_.subset), begin, size, p_.dim};
  }

  template <typename M>
  void launch_step(const WeightStep& step, M* first, int64_t begin, int64_t size, const at::Tensor& gradient,
                   const at::Tensor& unit) {
    const int64_t offset = begin * p_.dim;
    const StepRows<T, M> rows{.weight = step.weight.mutable_data_ptr<T>() + offset,
                              .first = first ? first + offset : nullptr,
                              .second = step.second.defined() ? step.second.mutable_data_ptr<T>() + offset : nullptr,
                              .factors = StepFactors<T>(step.numbers, step.optimizer),
                              .rounding_key = step.rounding_key,
                              .first_class = step.first_class + begin};
    step_rows<T, M><<<row_blocks(size), kRowWarps * kWarp, 0, stream_>>>(
        rows, size, p_.dim, gradient.const_data_ptr<T>(), inverse_.const_data_ptr<T>(), free_.const_data_ptr<T>(),
        unit.const_data_ptr<T>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }

  const Problem& p_;
  int64_t chunk_;
  cudaStream_t stream_;
  at::Tensor x_, bias_, packed_, inverse_, free_, tile_;
};

// Calls visit with the rule as a compile-time constant.
template <typename Visit>
void with_rule(Rule rule, const Visit& visit) {
  switch (rule) {
    case Rule::kPlain:
      return visit(std::integral_constant<Rule, Rule::kPlain>());
    case Rule::kClamp:
      return visit(std::integral_constant<Rule, Rule::kClamp>());
    case Rule::kZeroAbove:
      return visit(std::integral_constant<Rule, Rule::kZeroAbove>());
    case Rule::kHard:
      return visit(std::integral_constant<Rule, Rule::kHard>());
  }
}

template <typename T, typename O>
at::Tensor forward(const Problem& p) {
  at::Tensor maximum = at::full({p.batch}, -std::numeric_limits<double>::infinity(), p.x.options());
  at::Tensor sum = at::zeros({p.batch}, p.x.options());
  if (p.batch == 0) return maximum;
  Walk<T, O> walk(p);
  walk.chunks([&](int64_t begin, int64_t size) {
    const Tile<T> tile = walk.load(begin, size);
    with_rule(p.rule, [&](auto rule) {
      forward_tile<T, decltype(rule)::value><<<unsigned(p.batch), kTileThreads, 0, walk.stream()>>>(
          tile, maximum.mutable_data_ptr<T>(), sum.mutable_data_ptr<T>());
    });
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return maximum + sum.log();
}

// What gradients of cosines are divided by while they are operands: their largest possible size in fp16 (whose range a
// loss scale would leave), 1 otherwise. Stays on the device.
at::Tensor gradient_unit(const Problem& p, const Upstream& up) {
  if (p.compute != Compute::kFp16) return at::ones({1}, p.x.options());
  at::Tensor largest = up.grad_neg.abs().amax({0}, true) * p.scale;
  if (up.excluded_grad.defined() && up.excluded_grad.numel() > 0) {
    largest = at::maximum(largest, up.excluded_grad.abs().amax().reshape({1}));
  }
  return largest.clamp_min(1e-30);
}

template <typename T, typename O>
void backward(const Problem& p, const Upstream& up, const GradientSink& sink, at::Tensor& dx, at::Tensor& dbias) {
  at::Tensor dweight = sink.dweight;
  Walk<T, O> walk(p);
  const at::Tensor unit = gradient_unit(p, up);
  at::Tensor gradients = at::empty({p.batch * walk.chunk()}, walk.x().options());
  at::Tensor rows_grad = at::empty({walk.chunk(), p.dim}, p.x.options()), dx_part = at::empty_like(dx);
  walk.chunks([&](int64_t begin, int64_t size) {
    const Tile<T> tile = walk.load(begin, size);
    const T *lse = up.lse.const_data_ptr<T>(), *grad = up.grad_neg.const_data_ptr<T>();
    with_rule(p.rule, [&](auto rule) {
      backward_tile<T, O, decltype(rule)::value><<<unsigned(p.batch), kTileThreads, 0, walk.stream()>>>(
          tile, lse, grad, data_or_null<T>(up.excluded_grad), unit.const_data_ptr<T>(),
          gradients.mutable_data_ptr<O>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
      if (!dbias.defined()) return;
      bias_gradient<T, decltype(rule)::value><<<unsigned((size + 255) / 256), 256, 0, walk.stream()>>>(
          tile, p.batch, lse, grad, dbias.mutable_data_ptr<T>() + begin);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    const at::Tensor operand = gradients.narrow(0, 0, p.batch * size).view({p.batch, size});
    multiply(dx_part, operand, walk.packed(size));
    dx.add_(dx_part);
    multiply(rows_grad.narrow(0, 0, size), operand.t(), walk.x());
    if (sink.step != nullptr) {
      walk.step(*sink.step, begin, size, rows_grad, unit);
    } else {
      walk.finish(begin, size, rows_grad, unit, sink.accumulate, dweight);
    }
  });
  dx.mul_(unit);
}

struct Backend {
  static at::Tensor forward(const Problem& p) {
    const c10::cuda::CUDAGuard guard(p.x.device());
    if (p.type() == at::kDouble) return cuda::forward<double, double>(p);
    if (p.compute == Compute::kBf16) return cuda::forward<float, at::BFloat16>(p);
    if (p.compute == Compute::kFp16) return cuda::forward<float, at::Half>(p);
    return cuda::forward<float, float>(p);
  }

  static void backward(const Problem& p, const Upstream& up, const GradientSink& sink, at::Tensor& dx,
                       at::Tensor& dbias) {
    const c10::cuda::CUDAGuard guard(p.x.device());
    if (p.type() == at::kDouble) return cuda::backward<double, double>(p, up, sink, dx, dbias);
    if (p.compute == Compute::kBf16) return cuda::backward<float, at::BFloat16>(p, up, sink, dx, dbias);
    if (p.compute == Compute::kFp16) return cuda::backward<float, at::Half>(p, up, sink, dx, dbias);
    return cuda::backward<float, float>(p, up, sink, dx, dbias);
  }

  static at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options) { return at::empty(shape, options); }
};

}  // namespace
}  // namespace facex::cuda

TORCH_LIBRARY_IMPL(facex, CUDA, m) { facex::Operators<facex::cuda::Backend>::implement(m); }
