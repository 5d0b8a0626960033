#include "step.h"

namespace facex {
namespace {

Optimizer parse_optimizer(std::string_view name) {
  if (name == "sgd") return Optimizer::kSgd;
  if (name == "adamw") return Optimizer::kAdamW;
  TORCH_CHECK_VALUE(false, "cosine_logsumexp_step: optimizer is '", name, "'; it must be sgd or adamw");
}

// A moment that a step may change in place: as large as the weights, on their device, of one of the types.
at::Tensor checked_moment(const Problem& p, const at::Tensor& moment, bool bf16_allowed) {
  const bool type = moment.scalar_type() == p.type() || (bf16_allowed && moment.scalar_type() == at::kBFloat16);
  TORCH_CHECK_VALUE(
      moment.sizes() == p.weight.sizes() && moment.is_contiguous() && type && moment.device() == p.weight.device(),
      "cosine_logsumexp_step: a moment is ", moment.sizes(), " ", moment.scalar_type(), "; expected a contiguous ",
      p.weight.sizes(), " ", p.type(), bf16_allowed ? " or BFloat16" : "", " on ", p.weight.device());
  return moment;
}

}  // namespace

WeightStep::WeightStep(const Problem& p, const at::Tensor& weight_, at::TensorList moments, std::string_view name,
                       const StepNumbers& numbers_, int64_t rounding_key_, int64_t first_class_)
    : weight(weight_),
      optimizer(parse_optimizer(name)),
      numbers(numbers_),
      rounding_key(static_cast<uint64_t>(rounding_key_)),
      first_class(first_class_) {
  TORCH_CHECK_VALUE(p.batch > 0, "cosine_logsumexp_step: the batch is empty");
  TORCH_CHECK_VALUE(weight.is_contiguous() && weight.scalar_type() == p.type(), "cosine_logsumexp_step: weight is ",
                    weight.scalar_type(), "; expected contiguous weights of type ", p.type());
  const bool adamw = optimizer == Optimizer::kAdamW;
  TORCH_CHECK_VALUE(adamw ? moments.size() == 2 : moments.size() <= 1, "cosine_logsumexp_step: ", name, " was given ",
                    moments.size(), " moments; expected ", adamw ? "two" : "one at most");
  if (!moments.empty()) first = checked_moment(p, moments[0], true);
  if (adamw) second = checked_moment(p, moments[1], false);
}

}  // namespace facex
