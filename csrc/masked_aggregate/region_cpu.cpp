// Region pooling on the CPU: a pixel's channels, side by side, are added to the row of its region.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "cpu_targets.h"
#include "huge_pages.h"
#include "region.h"

namespace facex::region::cpu {
namespace {

using facex::cpu::launch;

constexpr int64_t kLanes = 16;  // channels of a worker's step
constexpr int64_t kTile = 64;   // pixels whose channels are turned side by side at a time

// A pixel's region; `regions` for none.
template <typename L>
int64_t region_of(L label, int64_t regions) {
  const int64_t value = static_cast<int64_t>(label);
  return value >= 0 && value < regions ? value : regions;
}

// The regions [B, P] of all pixels as int32, `regions` for none.
at::Tensor decode(const at::Tensor& labels, int64_t regions) {
  at::Tensor decoded = at::empty(labels.sizes(), labels.options().dtype(at::kInt));
  int32_t* to = decoded.mutable_data_ptr<int32_t>();
  const auto convert = [&](const auto* from) {
    for (int64_t i = 0; i < labels.numel(); ++i) to[i] = int32_t(region_of(from[i], regions));
  };
  if (labels.scalar_type() == at::kByte) {
    convert(labels.const_data_ptr<uint8_t>());
  } else {
    convert(labels.const_data_ptr<int64_t>());
  }
  return decoded;
}

// Adds `pixels` pixels of up to kLanes channels to the sums of their regions [regions + 1, kLanes], in double whatever
// the features are: a region may have ten thousand pixels. Element (pixel, lane) lies at pixel * pixel_stride + lane *
// lane_stride.
template <typename S>
struct AddKernel {
  static __attribute__((always_inline)) inline void run(const S* features, int64_t pixel_stride, int64_t lane_stride,
                                                        const int32_t* regions, int64_t pixels, int64_t lanes,
                                                        double* sums) {
    using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
    T tile[kTile * kLanes];
    if (lanes < kLanes) std::fill_n(tile, kTile * kLanes, T(0));
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const S* from = features + lane * lane_stride;
      for (int64_t i = 0; i < pixels; ++i) tile[i * kLanes + lane] = static_cast<T>(from[i * pixel_stride]);
    }
    for (int64_t i = 0; i < pixels; ++i) {
      double* sum = sums + regions[i] * kLanes;
      for (int64_t lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<double>(tile[i * kLanes + lane]);
    }
  }
};

template <typename S, typename T>
void pool_lanes(const Problem& p, const int32_t* regions, int64_t image, int64_t first, T* out) {
  const int64_t lanes = std::min(kLanes, p.channels - first);
  const int64_t pixel_stride = p.channels_last ? p.channels : 1, lane_stride = p.channels_last ? 1 : p.pixels;
  const S* features = p.features.const_data_ptr<S>() + image * p.channels * p.pixels + first * lane_stride;
  std::vector<double> sums((p.regions + 1) * kLanes);
  for (int64_t i = 0; i < p.pixels; i += kTile) {
    launch<AddKernel<S>>(features + i * pixel_stride, pixel_stride, lane_stride, regions + i,
                         std::min(kTile, p.pixels - i), lanes, sums.data());
  }
  for (int64_t k = 0; k < p.regions; ++k) {
    for (int64_t lane = 0; lane < lanes; ++lane) out[k * p.channels + first + lane] = T(sums[k * kLanes + lane]);
  }
}

template <typename T>
void count(const Problem& p, const int32_t* regions, T* areas) {
  for (int64_t b = 0; b < p.batch; ++b) {
    std::vector<int64_t> counts(p.regions + 1);
    for (int64_t i = 0; i < p.pixels; ++i) ++counts[regions[b * p.pixels + i]];
    std::copy_n(counts.begin(), p.regions, areas + b * p.regions);
  }
}

// One image's gradient: a copy of the table's entry (NCHW) or row (channels last) for every pixel.
template <typename S>
void spread_image(const Spread& p, const int32_t* regions, int64_t image) {
  const int64_t rows = p.regions + 1;
  const S* table = p.table.const_data_ptr<S>() + image * rows * p.channels;
  S* out = p.out.mutable_data_ptr<S>() + image * p.channels * p.pixels;
  if (p.channels_last) {
    for (int64_t i = 0; i < p.pixels; ++i)
      std::copy_n(table + regions[i] * p.channels, p.channels, out + i * p.channels);
    return;
  }
  for (int64_t c = 0; c < p.channels; ++c) {
    for (int64_t i = 0; i < p.pixels; ++i) out[c * p.pixels + i] = table[c * rows + regions[i]];
  }
}

struct Backend {
  static void sums(const Problem& p, at::Tensor& sums, at::Tensor& areas) {
    const at::Tensor decoded = decode(p.labels, p.regions);
    const int32_t* regions = decoded.const_data_ptr<int32_t>();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, p.features.scalar_type(), "facex_region_pool", [&] {
      using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
      count(p, regions, areas.mutable_data_ptr<T>());
      const int64_t groups = (p.channels + kLanes - 1) / kLanes;
      at::parallel_for(0, p.batch * groups, 1, [&](int64_t first, int64_t last) {
        for (int64_t item = first; item < last; ++item) {
          const int64_t image = item / groups;
          pool_lanes<scalar_t>(p, regions + image * p.pixels, image, item % groups * kLanes,
                               sums.mutable_data_ptr<T>() + image * p.regions * p.channels);
        }
      });
    });
  }

  static void spread(const Spread& p) {
    on_huge_pages(p.out);
    const at::Tensor decoded = decode(p.labels, p.regions);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, p.out.scalar_type(), "facex_region_spread", [&] {
      at::parallel_for(0, p.batch, 1, [&](int64_t first, int64_t last) {
        for (int64_t image = first; image < last; ++image)
          spread_image<scalar_t>(p, decoded.const_data_ptr<int32_t>() + image * p.pixels, image);
      });
    });
  }
};

}  // namespace
}  // namespace facex::region::cpu

TORCH_LIBRARY_IMPL(facex, CPU, m) { facex::region::Operators<facex::region::cpu::Backend>::implement(m); }
