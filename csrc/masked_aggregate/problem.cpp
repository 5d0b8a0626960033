#include "problem.h"

namespace facex::mask {
namespace {

Activation parse_activation(std::string_view name) {
  if (name == "sigmoid") return Activation::kSigmoid;
  if (name == "tanh") return Activation::kTanh;
  TORCH_CHECK_VALUE(false, "mask_aggregate: activation is '", name, "'; it must be sigmoid or tanh");
}

Arith parse_arith(std::string_view name) {
  if (name == "add") return Arith::kAdd;
  if (name == "sub") return Arith::kSub;
  if (name == "mul") return Arith::kMul;
  if (name == "div") return Arith::kDiv;
  TORCH_CHECK_VALUE(false, "mask_aggregate: arith is '", name, "'; it must be add, sub, mul or div");
}

bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

void check_features(const at::Tensor& y) {
  const auto type = y.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
                   "mask_aggregate: y is ", type, "; it must be float16, bfloat16, float32 or float64");
}

at::Tensor coefficients(const at::Tensor& given, const char* name, const at::Tensor& y, bool one_is_enough) {
  const int64_t channels = y.size(1);
  TORCH_CHECK_VALUE(given.device() == y.device(), "mask_aggregate_folded: ", name, " is on ", given.device(), ", y on ",
                    y.device());
  TORCH_CHECK_VALUE(given.numel() == channels || (one_is_enough && given.numel() == 1), "mask_aggregate_folded: ", name,
                    " has ", given.numel(), " values; y has ", channels, " channels");
  return given.detach().reshape({-1}).to(compute_type(y)).expand({channels}).contiguous();
}

}  // namespace

Options::Options(std::string_view activation, std::string_view arith, bool skip, double div_eps)
    : activation(parse_activation(activation)), arith(parse_arith(arith)), skip(skip), div_eps(div_eps) {
  TORCH_CHECK_VALUE(div_eps >= 0 && div_eps < 1, "mask_aggregate: div_eps is ", div_eps, "; it must be in [0, 1)");
}

at::Tensor laid_out_as(const at::Tensor& tensor, const at::Tensor& pattern) {
  if (same_layout(tensor, pattern)) return tensor;
  return at::empty_like(pattern, tensor.options()).copy_(tensor);
}

void check_alike(const at::Tensor& other, const char* name, const at::Tensor& first, const char* first_name) {
  TORCH_CHECK_VALUE(other.sizes() == first.sizes(), "mask_aggregate: ", name, " is ", other.sizes(), ", ", first_name,
                    " ", first.sizes(), "; they must have one shape");
  TORCH_CHECK_TYPE(other.scalar_type() == first.scalar_type(), "mask_aggregate: ", name, " is ", other.scalar_type(),
                   ", ", first_name, " ", first.scalar_type(), "; they must have one type");
  TORCH_CHECK_VALUE(other.device() == first.device(), "mask_aggregate: ", name, " is on ", other.device(), ", ",
                    first_name, " on ", first.device());
}

Forward::Forward(const at::Tensor& y_, const at::Tensor& a_, const Maybe& extra_, Options options, at::Tensor out)
    : options(options), z(std::move(out)) {
  check_features(y_);
  check_alike(a_, "a", y_, "y");
  y = laid_out_as(y_.detach(), z);
  a = laid_out_as(a_.detach(), z);
  if (!extra_.has_value()) return;
  check_alike(*extra_, "extra", y_, "y");
  extra = laid_out_as(extra_->detach(), z);
}

Backward::Backward(const at::Tensor& grad_, const Maybe& y_, const at::Tensor& a_, Options options, at::Tensor dy,
                   at::Tensor da)
    : options(options), dy(std::move(dy)), da(std::move(da)) {
  check_features(a_);
  check_alike(grad_, "grad", a_, "a");
  const at::Tensor pattern = this->dy.defined() ? this->dy : this->da;
  grad = laid_out_as(grad_, pattern);
  a = laid_out_as(a_, pattern);
  if (!needs_features(options.arith)) return;
  TORCH_CHECK_VALUE(y_.has_value(), "mask_aggregate_backward: mul and div need y");
  check_alike(*y_, "y", a_, "a");
  y = laid_out_as(*y_, pattern);
}

Folded::Folded(const at::Tensor& y_, const at::Tensor& h_, const at::Tensor& t_, const at::Tensor& scale_,
               const at::Tensor& shift_, const at::Tensor& slope_, const Maybe& extra_, Options options, at::Tensor out)
    : options(options), z(std::move(out)) {
  check_features(y_);
  TORCH_CHECK_VALUE(y_.dim() >= 2, "mask_aggregate_folded: y is ", y_.sizes(), "; expected [B, C, ...]");
  check_alike(h_, "h", y_, "y");
  check_alike(t_, "t", y_, "y");
  y = laid_out_as(y_, z);
  h = laid_out_as(h_, z);
  t = laid_out_as(t_, z);
  if (extra_.has_value()) {
    check_alike(*extra_, "extra", y_, "y");
    extra = laid_out_as(*extra_, z);
  }
  scale = coefficients(scale_, "scale", y_, false);
  shift = coefficients(shift_, "shift", y_, false);
  slope = coefficients(slope_, "slope", y_, true);
  channels = y_.size(1);
  run = z.is_contiguous() ? at::numel(y_) / std::max<int64_t>(1, y_.size(0) * channels) : 1;
}

}  // namespace facex::mask
