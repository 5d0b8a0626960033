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
  // The same, with an optimizer step on the weight in place of its gradient; see facex/ops/step.py.
  m.def(
      "cosine_logsumexp_step(Tensor x, Tensor(a!) weight, Tensor lse, Tensor grad_neg, Tensor? excluded, "
      "Tensor? excluded_grad, Tensor? threshold, Tensor? hard_t, Tensor? bias, float scale, str rule, bool normalize, "
      "str compute_dtype, Tensor(b!)[] moments, str optimizer, float lr, float weight_decay, float momentum, "
      "bool nesterov, float beta2, float eps, float correction1, float correction2, int rounding_key, "
      "int first_class) -> (Tensor, Tensor)");
  // Patches of images around landmarks; see facex/ops/patch_sampling.py.
  m.def("sample_patches(Tensor images, Tensor landmarks, int patch_size) -> Tensor");
  m.def(
      "sample_patches_backward(Tensor grad, Tensor images, Tensor landmarks, int patch_size, bool image_grad, bool "
      "landmark_grad) -> (Tensor, Tensor)");
  // Losses a sample, and the logsumexps of the student's and the teacher's rows; see facex/ops/dino_loss.py.
  m.def(
      "dino_loss(Tensor student, Tensor teacher, Tensor center, int views, float student_temp, float teacher_temp) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "dino_loss_backward(Tensor grad, Tensor student, Tensor teacher, Tensor center, Tensor student_lse, Tensor "
      "teacher_lse, int views, float student_temp, float teacher_temp) -> Tensor");
  // z = arith(y, act(a)) (+ extra) (+ y), its gradients, and the same with a = PReLU(scale_c h + shift_c + t); see
  // facex/ops/mask_aggregate.py.
  m.def(
      "mask_aggregate(Tensor y, Tensor a, Tensor? extra, str activation, str arith, bool skip, float div_eps) -> "
      "Tensor");
  m.def(
      "mask_aggregate_backward(Tensor grad, Tensor? y, Tensor a, str activation, str arith, bool skip, float div_eps, "
      "bool need_y, bool need_a) -> (Tensor, Tensor)");
  m.def(
      "mask_aggregate_folded(Tensor y, Tensor h, Tensor t, Tensor scale, Tensor shift, Tensor slope, Tensor? extra, "
      "str activation, str arith, bool skip, float div_eps) -> Tensor");
  // Means of the features over the regions of a label map, and the regions' areas; see facex/ops/region_pool.py.
  m.def("region_pool(Tensor features, Tensor labels, int num_regions) -> (Tensor, Tensor)");
  m.def("region_pool_backward(Tensor grad, Tensor labels, Tensor areas, bool channels_last) -> Tensor");
  // Images with some regions of a label map blacked out, and the regions' areas; see facex/ops/region_mask.py.
  m.def("region_mask(Tensor images, Tensor regions, Tensor keep) -> (Tensor, Tensor)");
  // A convolution over the masks of a label map's regions, and its weight's gradient; see facex/ops/region_conv.py.
  m.def("region_conv(Tensor regions, Tensor weight, int stride, int padding) -> Tensor");
  m.def("region_conv_backward(Tensor grad, Tensor regions, int[] weight, int stride, int padding) -> Tensor");
}
