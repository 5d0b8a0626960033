// The operators' entry points, the same for every device: check the arguments, make the outputs, call the backend.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include <tuple>

#include "problem.h"
#include "step.h"

namespace facex {

// `Backend` has static functions
//   at::Tensor forward(const Problem&)                                          neg [B]
//   void backward(const Problem&, const Upstream&, const GradientSink&, at::Tensor& dx, at::Tensor& dbias)
//   at::Tensor empty(at::IntArrayRef, const at::TensorOptions&)                 memory for a large gradient
// where dx [B, D] and dbias (undefined without a bias) come zeroed, and the sink says where the weights' gradient goes.
template <typename Backend>
struct Operators {
  using Optional = std::optional<at::Tensor>;

  static at::Tensor cosine_logsumexp(const at::Tensor& x, const at::Tensor& weight, const Optional& excluded,
                                     const Optional& threshold, const Optional& hard_t, const Optional& bias,
                                     const Optional& subset, double scale, std::string_view rule, bool normalize,
                                     std::string_view compute_dtype) {
    return Backend::forward(
        Problem({x, weight, excluded, threshold, hard_t, bias, subset, scale, rule, normalize, compute_dtype}));
  }

  static std::tuple<at::Tensor, at::Tensor> cosine_logsumexp_backward_into(
      const at::Tensor& x, const at::Tensor& weight, const at::Tensor& lse, const at::Tensor& grad_neg,
      const Optional& excluded, const Optional& excluded_grad, const Optional& threshold, const Optional& hard_t,
      const Optional& bias, const Optional& subset, double scale, std::string_view rule, bool normalize,
      std::string_view compute_dtype, at::Tensor& dweight) {
    const Problem p({x, weight, excluded, threshold, hard_t, bias, subset, scale, rule, normalize, compute_dtype});
    check_gradient_buffer(p, dweight);
    return run(p, Upstream(p, lse, grad_neg, excluded_grad), {.dweight = dweight, .accumulate = true});
  }

  static std::tuple<at::Tensor, at::Tensor, at::Tensor> cosine_logsumexp_backward(
      const at::Tensor& x, const at::Tensor& weight, const at::Tensor& lse, const at::Tensor& grad_neg,
      const Optional& excluded, const Optional& excluded_grad, const Optional& threshold, const Optional& hard_t,
      const Optional& bias, const Optional& subset, double scale, std::string_view rule, bool normalize,
      std::string_view compute_dtype) {
    const Problem p({x, weight, excluded, threshold, hard_t, bias, subset, scale, rule, normalize, compute_dtype});
    at::Tensor dweight = Backend::empty({p.columns, p.dim}, p.x.options());
    auto [dx, dbias] = run(p, Upstream(p, lse, grad_neg, excluded_grad), {.dweight = dweight});
    return {dx, dweight, dbias};
  }

  static std::tuple<at::Tensor, at::Tensor> cosine_logsumexp_step(
      const at::Tensor& x, at::Tensor& weight, const at::Tensor& lse, const at::Tensor& grad_neg,
      const Optional& excluded, const Optional& excluded_grad, const Optional& threshold, const Optional& hard_t,
      const Optional& bias, double scale, std::string_view rule, bool normalize, std::string_view compute_dtype,
      at::TensorList moments, std::string_view optimizer, double lr, double weight_decay, double momentum,
      bool nesterov, double beta2, double eps, double correction1, double correction2, int64_t rounding_key,
      int64_t first_class) {
    const Optional none;
    const Problem p({x, weight, excluded, threshold, hard_t, bias, none, scale, rule, normalize, compute_dtype});
    const StepNumbers numbers{lr, weight_decay, momentum, beta2, eps, correction1, correction2, nesterov};
    const WeightStep step(p, weight, moments, optimizer, numbers, rounding_key, first_class);
    return run(p, Upstream(p, lse, grad_neg, excluded_grad), {.dweight = {}, .step = &step});
  }

  static void implement(torch::Library& m) {
    m.impl("cosine_logsumexp", &cosine_logsumexp);
    m.impl("cosine_logsumexp_backward", &cosine_logsumexp_backward);
    m.impl("cosine_logsumexp_backward_into", &cosine_logsumexp_backward_into);
    m.impl("cosine_logsumexp_step", &cosine_logsumexp_step);
  }

 private:
  static std::tuple<at::Tensor, at::Tensor> run(const Problem& p, const Upstream& up, const GradientSink& sink) {
    at::Tensor dx = at::zeros_like(p.x), dbias = at::zeros({p.bias.defined() ? p.columns : 0}, p.x.options()), none;
    if (p.batch > 0) {
      Backend::backward(p, up, sink, dx, p.bias.defined() ? dbias : none);
    } else if (!sink.accumulate) {
      sink.dweight.zero_();
    }
    return {dx, dbias};
  }
};

}  // namespace facex
