// Region pooling: the mean of the features [B, C, H, W] over each region of a label map [B, H, W], without one mask a
// region. What the CPU and CUDA kernels share.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include <tuple>

namespace facex::region {

// The arguments checked and laid out. Labels outside [0, regions) belong to no region.
struct Problem {
  Problem(const at::Tensor& features, const at::Tensor& labels, int64_t regions);

  at::Tensor features;  // dense: NCHW, or channels last
  at::Tensor labels;    // [B, H * W] uint8 or int64, contiguous
  int64_t batch, channels, pixels, regions;
  bool channels_last;
};

// The gradient of the features at a pixel of region r is `table`'s entry: the mean's gradient / area, 0 for no region.
struct Spread {
  Spread(const at::Tensor& grad, const at::Tensor& labels, const at::Tensor& areas, bool channels_last);

  at::Tensor table;  // [B, C, regions + 1], channels last [B, regions + 1, C], in the gradient's type
  at::Tensor labels;
  at::Tensor out;  // [B, C, H, W]
  int64_t batch, channels, pixels, regions;
  bool channels_last;
};

// The mean from sums [B, regions, C] and areas [B, regions], both of the compute type; 0 for an empty region.
at::Tensor mean(const at::Tensor& sums, const at::Tensor& areas, at::ScalarType type);

// `Backend` has static functions
//   void sums(const Problem&, at::Tensor& sums, at::Tensor& areas)   both come zeroed: [B, K, C], [B, K]
//   void spread(const Spread&)
template <typename Backend>
struct Operators {
  static std::tuple<at::Tensor, at::Tensor> region_pool(const at::Tensor& features, const at::Tensor& labels,
                                                        int64_t regions) {
    const Problem p(features, labels, regions);
    const auto options = p.features.options().dtype(features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
    at::Tensor sums = at::zeros({p.batch, regions, p.channels}, options.memory_format(at::MemoryFormat::Contiguous));
    at::Tensor areas = at::zeros({p.batch, regions}, options);
    if (labels.numel() > 0) Backend::sums(p, sums, areas);
    return {mean(sums, areas, features.scalar_type()), areas};
  }

  static at::Tensor region_pool_backward(const at::Tensor& grad, const at::Tensor& labels, const at::Tensor& areas,
                                         bool channels_last) {
    const Spread p(grad, labels, areas, channels_last);
    if (p.out.numel() > 0) Backend::spread(p);
    return p.out;
  }

  static void implement(torch::Library& m) {
    m.impl("region_pool", &region_pool);
    m.impl("region_pool_backward", &region_pool_backward);
  }
};

}  // namespace facex::region
