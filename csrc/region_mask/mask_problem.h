// The checked arguments of region_mask.
#pragma once

#include <ATen/ATen.h>

#include <tuple>

namespace facex::region_mask {

constexpr int64_t kMost = 256;  // regions that a uint8 map can name

// Images [B, C, H, W], regions uint8 [B, H, W] and keep [B, K] in the images' type, contiguous.
struct Mask {
  Mask(const at::Tensor& images_, const at::Tensor& regions_, const at::Tensor& keep_)
      : images(images_.contiguous()), regions(regions_.contiguous()), keep(keep_.contiguous()) {
    TORCH_CHECK(images.dim() == 4 && regions.dim() == 3 && regions.scalar_type() == at::kByte &&
                    regions.size(0) == images.size(0) && regions.size(1) == images.size(2) &&
                    regions.size(2) == images.size(3),
                "region_mask: images [B, C, H, W] and regions uint8 [B, H, W] are wanted, got ", images_.sizes(),
                " and ", regions_.scalar_type(), " ", regions_.sizes());
    TORCH_CHECK(keep.dim() == 2 && keep.size(0) == images.size(0) && keep.size(1) >= 1 && keep.size(1) <= kMost &&
                    keep.scalar_type() == images.scalar_type() && images.is_floating_point(),
                "region_mask: keep [B, K] is of the images' floating type, with K in 1..", kMost, ", got ",
                keep_.scalar_type(), " ", keep_.sizes());
    TORCH_CHECK(images.device() == regions.device() && images.device() == keep.device(),
                "region_mask: images, regions and keep are on one device");
  }

  int64_t batch() const { return images.size(0); }
  int64_t channels() const { return images.size(1); }
  int64_t pixels() const { return images.size(2) * images.size(3); }
  int64_t count() const { return keep.size(1); }

  at::Tensor images, regions, keep;
};

// What both backends register; `Backend::run(mask, masked, areas)` fills the outputs, areas holding zeros.
template <typename Backend>
std::tuple<at::Tensor, at::Tensor> region_mask(const at::Tensor& images, const at::Tensor& regions,
                                               const at::Tensor& keep) {
  const Mask mask(images, regions, keep);
  at::Tensor masked = at::empty(mask.images.sizes(), mask.images.options());
  at::Tensor areas = at::zeros({mask.batch(), mask.count()}, mask.images.options().dtype(at::kInt));
  if (mask.batch() * mask.pixels() > 0) Backend::run(mask, masked, areas);
  return {masked, areas};
}

}  // namespace facex::region_mask
