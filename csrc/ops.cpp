// The one place where facex's operator schemas are declared. CPU and CUDA kernels register themselves beside their
// code; fake kernels and autograd are registered in facex/ops.
#include <torch/library.h>

TORCH_LIBRARY(facex, m) {
  // neg_i = logsumexp over the classes j outside excluded_i of scale * g(cos_ij) + bias_j; see
  // facex/ops/cosine_logsumexp.py.
  m.def(
      "cosine_logsumexp(Tensor x, Tensor weight, Tensor? excluded, Tensor? threshold, Tensor? hard_t, Tensor? bias, "
      "Tensor? subset, float scale, str rule, bool normalize, str compute_dtype) -> Tensor");
  m.def(
      "cosine_logsumexp_backward(Tensor x, Tensor weight, Tensor lse, Tensor grad_neg, Tensor? excluded, "
      "Tensor? excluded_grad, Tensor? threshold, Tensor? hard_t, Tensor? bias, Tensor? subset, float scale, str rule, "
      "bool normalize, str compute_dtype) -> (Tensor, Tensor, Tensor)");
  // The same, with the weight's gradient added to a buffer that the caller owns (an accumulation window).
  m.def(
      "cosine_logsumexp_backward_into(Tensor x, Tensor weight, Tensor lse, Tensor grad_neg, Tensor? excluded, "
      "Tensor? excluded_grad, Tensor? threshold, Tensor? hard_t, Tensor? bias, Tensor? subset, float scale, str rule, "
      "bool normalize, str compute_dtype, Tensor(a!) dweight) -> (Tensor, Tensor)");
}
