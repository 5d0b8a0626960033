#include "problem.h"

namespace facex {
namespace {

Rule parse_rule(std::string_view name) {
  if (name == "plain") return Rule::kPlain;
  if (name == "clamp") return Rule::kClamp;
  if (name == "zero_above") return Rule::kZeroAbove;
  if (name == "hard") return Rule::kHard;
  TORCH_CHECK_VALUE(false, "cosine_logsumexp: rule is '", name, "'; it must be plain, clamp, zero_above or hard");
}

Compute parse_compute(std::string_view name) {
  if (name == "fp32") return Compute::kFull;
  if (name == "bf16") return Compute::kBf16;
  if (name == "fp16") return Compute::kFp16;
  TORCH_CHECK_VALUE(false, "cosine_logsumexp: compute_dtype is '", name, "'; it must be fp32, bf16 or fp16");
}

at::Tensor optional_vector(const std::optional<at::Tensor>& given, const at::Tensor& x, int64_t size,
                           const char* name) {
  if (!given.has_value()) return {};
  TORCH_CHECK_VALUE(given->numel() == size, "cosine_logsumexp: ", name, " has ", given->numel(), " values, expected ",
                    size);
  TORCH_CHECK_VALUE(given->device() == x.device(), "cosine_logsumexp: ", name, " is on ", given->device(), ", x on ",
                    x.device());
  return given->detach().to(x.scalar_type()).contiguous();
}

at::Tensor optional_index(const std::optional<at::Tensor>& given, const at::Tensor& x, const char* name) {
  if (!given.has_value()) return {};
  TORCH_CHECK_TYPE(given->scalar_type() == at::kLong, "cosine_logsumexp: ", name, " is ", given->scalar_type(),
                   ", expected int64");
  TORCH_CHECK_VALUE(given->device() == x.device(), "cosine_logsumexp: ", name, " is on ", given->device(), ", x on ",
                    x.device());
  return given->contiguous();
}

}  // namespace

Problem::Problem(const Arguments& a)
    : scale(a.scale), rule(parse_rule(a.rule)), normalize(a.normalize), compute(parse_compute(a.compute_dtype)) {
  TORCH_CHECK_VALUE(a.x.dim() == 2 && a.weight.dim() == 2 && a.x.size(1) == a.weight.size(1), "cosine_logsumexp: x is ",
                    a.x.sizes(), ", weight ", a.weight.sizes(), "; expected [B, D] and [C, D]");
  TORCH_CHECK_TYPE(a.x.is_floating_point() && a.weight.is_floating_point(), "cosine_logsumexp: x is ",
                   a.x.scalar_type(), ", weight ", a.weight.scalar_type(), "; expected floating point");
  TORCH_CHECK_VALUE(a.x.device() == a.weight.device(), "cosine_logsumexp: x is on ", a.x.device(), ", weight on ",
                    a.weight.device());
  TORCH_CHECK_VALUE(a.scale > 0, "cosine_logsumexp: scale is ", a.scale, "; it must be positive");
  const bool wide = a.x.scalar_type() == at::kDouble || a.weight.scalar_type() == at::kDouble;
  x = a.x.detach().to(wide ? at::kDouble : at::kFloat).contiguous();
  weight = a.weight.detach().contiguous();
  if (wide) compute = Compute::kFull;
  batch = x.size(0);
  dim = x.size(1);
  subset = optional_index(a.subset, x, "subset");
  TORCH_CHECK_VALUE(!subset.defined() || subset.dim() == 1, "cosine_logsumexp: subset is ", subset.sizes(),
                    "; expected [S]");
  // On the CPU the gather of a chunk checks this; a kernel would read foreign memory.
  if (subset.defined() && subset.is_cuda()) at::_assert_async(((subset >= 0) & (subset < weight.size(0))).all());
  columns = subset.defined() ? subset.numel() : weight.size(0);
  excluded = optional_index(a.excluded, x, "excluded");
  TORCH_CHECK_VALUE(!excluded.defined() || (excluded.dim() == 2 && excluded.size(0) == batch),
                    "cosine_logsumexp: excluded is ", excluded.sizes(), "; expected [", batch, ", K]");
  num_excluded = excluded.defined() ? excluded.size(1) : 0;
  threshold = optional_vector(a.threshold, x, batch, "threshold");
  if (rule == Rule::kClamp && !threshold.defined()) threshold = at::ones({batch}, x.options());
  hard_t = optional_vector(a.hard_t, x, 1, "hard_t");
  bias = optional_vector(a.bias, x, weight.size(0), "bias");
  TORCH_CHECK_VALUE(threshold.defined() || (rule != Rule::kZeroAbove && rule != Rule::kHard),
                    "cosine_logsumexp: rule '", a.rule, "' needs a threshold");
  TORCH_CHECK_VALUE(hard_t.defined() || rule != Rule::kHard, "cosine_logsumexp: rule 'hard' needs hard_t");
}

Upstream::Upstream(const Problem& p, const at::Tensor& lse_, const at::Tensor& grad_neg_,
                   const std::optional<at::Tensor>& excluded_grad_)
    : lse(optional_vector(lse_, p.x, p.batch, "lse")), grad_neg(optional_vector(grad_neg_, p.x, p.batch, "grad_neg")) {
  if (!excluded_grad_.has_value()) return;
  TORCH_CHECK_VALUE(p.excluded.defined(), "cosine_logsumexp_backward: excluded_grad without excluded");
  excluded_grad = optional_vector(excluded_grad_, p.x, p.batch * p.num_excluded, "excluded_grad");
}

void check_gradient_buffer(const Problem& p, const at::Tensor& dweight) {
  TORCH_CHECK_VALUE(dweight.dim() == 2 && dweight.size(0) == p.columns && dweight.size(1) == p.dim &&
                        dweight.is_contiguous() && dweight.scalar_type() == p.type() &&
                        dweight.device() == p.x.device(),
                    "cosine_logsumexp_backward: accumulate_into is ", dweight.sizes(), " ", dweight.scalar_type(),
                    "; expected a contiguous [", p.columns, ", ", p.dim, "] ", p.type(), " on ", p.x.device());
}

}  // namespace facex
