// region_mask on the CPU: a strip of pixels' factors is looked up once and multiplies every channel.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "mask_problem.h"
#include "simd.h"

namespace facex::region_mask {
namespace {

constexpr int64_t kStrip = 2048;  // pixels whose factors stay in the first cache
constexpr int kWays = 4;          // counters of a region: neighbours are mostly of one, and would wait for each other

FACEX_CLONES void multiply(const float* in, const float* factor, int64_t n, float* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = in[i] * factor[i];
}
FACEX_CLONES void multiply(const double* in, const double* factor, int64_t n, double* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = in[i] * factor[i];
}
template <typename T>
void multiply(const T* in, const T* factor, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = in[i] * factor[i];
}

// The pixels of each region in a strip.
std::array<int32_t, kMost> count(const uint8_t* regions, int64_t n) {
  std::array<std::array<int32_t, kMost>, kWays> ways{};
  int64_t i = 0;
  for (; i + kWays <= n; i += kWays) {
    for (int way = 0; way < kWays; ++way) ++ways[way][regions[i + way]];
  }
  for (; i < n; ++i) ++ways[0][regions[i]];
  for (int64_t k = 0; k < kMost; ++k) {
    for (int way = 1; way < kWays; ++way) ways[0][k] += ways[way][k];
  }
  return ways[0];
}

// Adds a strip's areas to its image's; several workers may share an image. Returns the largest region.
int64_t add_areas(const uint8_t* regions, int64_t n, int64_t known, int32_t* areas) {
  const std::array<int32_t, kMost> found = count(regions, n);
  int64_t largest = 0;
  for (int64_t k = 0; k < kMost; ++k) {
    if (found[k] == 0) continue;
    largest = k;
    if (k < known) std::atomic_ref<int32_t>(areas[k]).fetch_add(found[k], std::memory_order_relaxed);
  }
  return largest;
}

template <typename T>
void mask_strip(const Mask& m, int64_t image, int64_t first, int64_t n, T* out) {
  const uint8_t* regions = m.regions.const_data_ptr<uint8_t>() + image * m.pixels() + first;
  std::array<T, kMost> table{};
  std::copy_n(m.keep.const_data_ptr<T>() + image * m.count(), m.count(), table.begin());
  std::array<T, kStrip> factor;
  for (int64_t i = 0; i < n; ++i) factor[i] = table[regions[i]];
  const int64_t plane = image * m.channels() * m.pixels() + first;
  for (int64_t c = 0; c < m.channels(); ++c) {
    const int64_t at = plane + c * m.pixels();
    multiply(m.images.const_data_ptr<T>() + at, factor.data(), n, out + at);
  }
}

struct CpuBackend {
  static void run(const Mask& m, at::Tensor& masked, at::Tensor& areas) {
    const int64_t strips = (m.pixels() + kStrip - 1) / kStrip;
    std::atomic<int64_t> largest{0};
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, m.images.scalar_type(), "facex_region_mask", [&] {
      scalar_t* out = masked.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, m.batch() * strips, 1, [&](int64_t start, int64_t stop) {
        int64_t top = 0;
        for (int64_t item = start; item < stop; ++item) {
          const int64_t image = item / strips, first = item % strips * kStrip;
          const int64_t n = std::min(kStrip, m.pixels() - first);
          mask_strip<scalar_t>(m, image, first, n, out);
          top = std::max(top, add_areas(m.regions.const_data_ptr<uint8_t>() + image * m.pixels() + first, n, m.count(),
                                        areas.mutable_data_ptr<int32_t>() + image * m.count()));
        }
        for (int64_t seen = largest; seen < top && !largest.compare_exchange_weak(seen, top);) {
        }
      });
    });
    TORCH_CHECK_VALUE(largest < m.count(), "the label map names region ", largest.load(), ", but there are ", m.count(),
                      " regions");
  }
};

}  // namespace
}  // namespace facex::region_mask

TORCH_LIBRARY_IMPL(facex, CPU, m) {
  m.impl("region_mask", &facex::region_mask::region_mask<facex::region_mask::CpuBackend>);
}
