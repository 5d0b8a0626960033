// region_conv on CUDA: there the convolution over the masks is as fast as a look-up, so it is computed so, with the
// masks of a few images at a time.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "conv_problem.h"

namespace facex::region_conv {
namespace {

constexpr int64_t kImages = 16;  // whose masks are in memory at a time

// Masks [n, K, H, W] of the images from `first` on; a region outside is a device assertion.
at::Tensor masks(const Conv& c, int64_t first, const at::TensorOptions& options) {
  const int64_t n = std::min(kImages, c.batch() - first);
  const at::Tensor ids = c.regions.narrow(0, first, n).to(at::kLong).unsqueeze(1);
  return at::zeros({n, c.count, c.height(), c.width()}, options).scatter_(1, ids, 1.0);
}

at::Tensor region_conv(const at::Tensor& regions, const at::Tensor& weight, int64_t stride, int64_t padding) {
  const Conv c(regions, weight.sizes(), stride, padding);
  const c10::cuda::CUDAGuard guard(weight.device());
  at::Tensor out = at::empty({c.batch(), c.outputs, c.rows, c.columns}, weight.options());
  for (int64_t first = 0; first < c.batch(); first += kImages) {
    const at::Tensor x = masks(c, first, weight.options());
    out.narrow(0, first, x.size(0)).copy_(at::conv2d(x, weight, {}, {stride, stride}, {padding, padding}));
  }
  return out;
}

at::Tensor region_conv_backward(const at::Tensor& grad, const at::Tensor& regions, at::IntArrayRef weight,
                                int64_t stride, int64_t padding) {
  const Conv c(regions, weight, stride, padding);
  const c10::cuda::CUDAGuard guard(grad.device());
  at::Tensor sum = at::zeros(weight, grad.options());
  for (int64_t first = 0; first < c.batch(); first += kImages) {
    const at::Tensor x = masks(c, first, grad.options());
    const at::Tensor part = grad.narrow(0, first, x.size(0)).contiguous();
    sum += std::get<1>(at::convolution_backward(part, x, sum, c10::nullopt, {stride, stride}, {padding, padding},
                                                {1, 1}, false, {0, 0}, 1, {false, true, false}));
  }
  return sum;
}

}  // namespace
}  // namespace facex::region_conv

TORCH_LIBRARY_IMPL(facex, CUDA, m) {
  m.impl("region_conv", &facex::region_conv::region_conv);
  m.impl("region_conv_backward", &facex::region_conv::region_conv_backward);
}
