#include "region.h"

namespace facex::region {
namespace {

void check_labels(const at::Tensor& labels) {
  TORCH_CHECK_TYPE(labels.scalar_type() == at::kByte || labels.scalar_type() == at::kLong, "region_pool: labels are ",
                   labels.scalar_type(), "; they must be uint8 or int64");
  TORCH_CHECK_VALUE(labels.dim() == 3, "region_pool: labels are ", labels.sizes(), "; expected [B, H, W]");
}

at::MemoryFormat format(bool channels_last) {
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

}  // namespace

Problem::Problem(const at::Tensor& features_, const at::Tensor& labels_, int64_t regions_) : regions(regions_) {
  const auto type = features_.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
                   "region_pool: features are ", type, "; they must be float16, bfloat16, float32 or float64");
  check_labels(labels_);
  TORCH_CHECK_VALUE(features_.dim() == 4 && features_.size(0) == labels_.size(0) &&
                        features_.size(2) == labels_.size(1) && features_.size(3) == labels_.size(2),
                    "region_pool: features are ", features_.sizes(), ", labels ", labels_.sizes(),
                    "; expected [B, C, H, W] and [B, H, W]");
  TORCH_CHECK_VALUE(features_.device() == labels_.device(), "region_pool: features are on ", features_.device(),
                    ", labels on ", labels_.device());
  TORCH_CHECK_VALUE(regions >= 1, "region_pool: num_regions is ", regions, "; it must be at least 1");
  batch = features_.size(0);
  channels = features_.size(1);
  pixels = features_.size(2) * features_.size(3);
  channels_last = !features_.is_contiguous() && features_.is_contiguous(at::MemoryFormat::ChannelsLast);
  features = features_.detach().contiguous(format(channels_last));
  labels = labels_.reshape({batch, pixels}).contiguous();
}

Spread::Spread(const at::Tensor& grad, const at::Tensor& labels_, const at::Tensor& areas, bool channels_last)
    : channels_last(channels_last) {
  check_labels(labels_);
  TORCH_CHECK_VALUE(grad.dim() == 3 && areas.dim() == 2 && grad.size(0) == labels_.size(0) &&
                        areas.size(0) == grad.size(0) && areas.size(1) == grad.size(1),
                    "region_pool_backward: grad is ", grad.sizes(), ", areas ", areas.sizes(), ", labels ",
                    labels_.sizes(), "; expected [B, K, C], [B, K] and [B, H, W]");
  batch = grad.size(0);
  regions = grad.size(1);
  channels = grad.size(2);
  pixels = labels_.size(1) * labels_.size(2);
  const at::Tensor area = areas.unsqueeze(2);
  const at::Tensor share = at::where(area > 0, grad.to(areas.scalar_type()) / area, 0).to(grad.scalar_type());
  table = at::constant_pad_nd(share, {0, 0, 0, 1});
  if (!channels_last) table = table.transpose(1, 2);
  table = table.contiguous();
  labels = labels_.reshape({batch, pixels}).contiguous();
  out = at::empty({batch, channels, labels_.size(1), labels_.size(2)},
                  grad.options().memory_format(format(channels_last)));
}

at::Tensor mean(const at::Tensor& sums, const at::Tensor& areas, at::ScalarType type) {
  const at::Tensor area = areas.unsqueeze(2);
  return at::where(area > 0, sums / area, 0).to(type);
}

}  // namespace facex::region
