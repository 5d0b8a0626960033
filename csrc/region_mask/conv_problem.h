// The checked arguments of region_conv: a convolution over the masks of a label map, as a look-up of its weights.
#pragma once

#include <ATen/ATen.h>

namespace facex::region_conv {

// Regions uint8 [B, H, W], contiguous, and the shape of a weight [O, K, kh, kw] with its stride and padding.
struct Conv {
  Conv(const at::Tensor& regions_, at::IntArrayRef weight, int64_t stride_, int64_t padding_)
      : regions(regions_.contiguous()), stride(stride_), padding(padding_) {
    TORCH_CHECK(regions.dim() == 3 && regions.scalar_type() == at::kByte && weight.size() == 4 && weight[1] >= 1 &&
                    weight[2] >= 1 && weight[3] >= 1 && stride >= 1 && padding >= 0,
                "region_conv: regions uint8 [B, H, W] and a weight [O, K, kh, kw] are wanted, got ",
                regions_.scalar_type(), " ", regions_.sizes(), " and ", weight);
    outputs = weight[0], count = weight[1], kernel_h = weight[2], kernel_w = weight[3];
    rows = (height() + 2 * padding - kernel_h) / stride + 1;
    columns = (width() + 2 * padding - kernel_w) / stride + 1;
    TORCH_CHECK(height() + 2 * padding >= kernel_h && width() + 2 * padding >= kernel_w, "region_conv: a kernel of ",
                weight, " does not fit into ", regions_.sizes());
  }

  int64_t batch() const { return regions.size(0); }
  int64_t height() const { return regions.size(1); }
  int64_t width() const { return regions.size(2); }

  at::Tensor regions;
  int64_t stride, padding, outputs, count, kernel_h, kernel_w, rows, columns;
};

}  // namespace facex::region_conv
