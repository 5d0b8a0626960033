// Region pooling on CUDA, deterministic: every lane of a warp adds to a column of its own in shared memory, without
// atomics; the columns meet at the end.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>

#include "region.h"

namespace facex::region::cuda {
namespace {

constexpr int kWarp = 32, kWarps = 4;

// Regions that a block keeps sums for: 8 KB a warp.
template <typename T>
constexpr int kRegions = 256 / int(sizeof(T));

template <typename L>
__device__ __forceinline__ int64_t region_of(L label, int64_t regions) {
  const int64_t value = static_cast<int64_t>(label);
  return value >= 0 && value < regions ? value : regions;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

template <typename L, typename T>
__global__ void count(const L* labels, int64_t pixels, int64_t total, int64_t regions, T* areas) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const int64_t region = region_of(labels[i], regions);
  // Whole numbers add up to the same in any order.
  if (region < regions) atomicAdd(areas + i / pixels * regions + region, T(1));
}

// NCHW: one warp a (image, channel) and group of regions; its lanes share the pixels out.
template <typename S, typename T, typename L>
__global__ void pool_planes(const S* features, const L* labels, int64_t planes, int64_t channels, int64_t pixels,
                            int64_t regions, T* sums) {
  extern __shared__ char memory[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t plane = int64_t(blockIdx.x) * kWarps + warp, base = int64_t(blockIdx.y) * kRegions<T>;
  if (plane >= planes) return;
  const int here = int(regions - base < kRegions<T> ? regions - base : kRegions<T>);
  T* sum = reinterpret_cast<T*>(memory) + int64_t(warp) * kRegions<T> * kWarp + lane;
  for (int k = 0; k < here; ++k) sum[k * kWarp] = T(0);
  const S* plane_features = features + plane * pixels;
  const L* plane_labels = labels + plane / channels * pixels;
  for (int64_t i = lane; i < pixels; i += kWarp) {
    const int64_t region = region_of(plane_labels[i], regions) - base;
    if (region >= 0 && region < here) sum[region * kWarp] += static_cast<T>(plane_features[i]);
  }
  for (int k = 0; k < here; ++k) {
    const T total = warp_sum(sum[k * kWarp]);
    if (lane == 0) sums[(plane / channels * regions + base + k) * channels + plane % channels] = total;
  }
}

// Channels last: one block an image and 32 channels (a lane each) and group of regions; its warps share the pixels out.
template <typename S, typename T, typename L>
__global__ void pool_rows(const S* features, const L* labels, int64_t channels, int64_t pixels, int64_t regions,
                          int64_t lane_groups, T* sums) {
  extern __shared__ char memory[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t image = blockIdx.x / lane_groups, channel = blockIdx.x % lane_groups * kWarp + lane;
  const int64_t base = int64_t(blockIdx.y) * kRegions<T>;
  const int here = int(regions - base < kRegions<T> ? regions - base : kRegions<T>);
  T* shared = reinterpret_cast<T*>(memory) + lane;
  T* sum = shared + int64_t(warp) * kRegions<T> * kWarp;
  for (int k = 0; k < here; ++k) sum[k * kWarp] = T(0);
  if (channel < channels) {
    for (int64_t i = warp; i < pixels; i += kWarps) {
      const int64_t region = region_of(labels[image * pixels + i], regions) - base;
      if (region >= 0 && region < here)
        sum[region * kWarp] += static_cast<T>(features[(image * pixels + i) * channels + channel]);
    }
  }
  __syncthreads();
  if (channel >= channels) return;
  for (int k = warp; k < here; k += kWarps) {
    T total = 0;
    for (int w = 0; w < kWarps; ++w) total += shared[(int64_t(w) * kRegions<T> + k) * kWarp];
    sums[(image * regions + base + k) * channels + channel] = total;
  }
}

template <typename S, typename L>
__global__ void spread_table(const S* table, const L* labels, int64_t total, int64_t channels, int64_t pixels,
                             int64_t regions, bool channels_last, S* out) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const int64_t image = i / (channels * pixels), rest = i - image * channels * pixels;
  const int64_t pixel = channels_last ? rest / channels : rest % pixels;
  const int64_t channel = channels_last ? rest - pixel * channels : rest / pixels;
  const int64_t region = region_of(labels[image * pixels + pixel], regions);
  const S* entries = table + image * (regions + 1) * channels;
  out[i] = channels_last ? entries[region * channels + channel] : entries[channel * (regions + 1) + region];
}

// Calls visit(storage value, label value) for their types.
template <typename Visit>
void with_types(const at::Tensor& features, const at::Tensor& labels, const Visit& visit) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "facex_region_pool", [&] {
    if (labels.scalar_type() == at::kByte) {
      visit(scalar_t(), uint8_t());
    } else {
      visit(scalar_t(), int64_t());
    }
  });
}

unsigned blocks_of(int64_t size, int64_t block) { return unsigned((size + block - 1) / block); }

struct Backend {
  static void sums(const Problem& p, at::Tensor& sums, at::Tensor& areas) {
    const c10::cuda::CUDAGuard guard(p.features.device());
    const auto stream = at::cuda::getCurrentCUDAStream();
    with_types(p.features, p.labels, [&](auto storage, auto label) {
      using S = decltype(storage);
      using L = decltype(label);
      using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
      const S* features = p.features.const_data_ptr<S>();
      const L* labels = p.labels.const_data_ptr<L>();
      count<L, T><<<blocks_of(p.labels.numel(), 256), 256, 0, stream>>>(labels, p.pixels, p.labels.numel(), p.regions,
                                                                        areas.mutable_data_ptr<T>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
      if (p.channels == 0) return;
      constexpr size_t kShared = size_t(kWarps) * kRegions<T> * kWarp * sizeof(T);
      const int64_t lane_groups = blocks_of(p.channels, kWarp), planes = p.batch * p.channels;
      const dim3 grid(p.channels_last ? unsigned(p.batch * lane_groups) : blocks_of(planes, kWarps),
                      blocks_of(p.regions, kRegions<T>));
      T* out = sums.mutable_data_ptr<T>();
      if (p.channels_last) {
        pool_rows<S, T, L><<<grid, kWarps * kWarp, kShared, stream>>>(features, labels, p.channels, p.pixels, p.regions,
                                                                      lane_groups, out);
      } else {
        pool_planes<S, T, L>
            <<<grid, kWarps * kWarp, kShared, stream>>>(features, labels, planes, p.channels, p.pixels, p.regions, out);
      }
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }

  static void spread(const Spread& p) {
    const c10::cuda::CUDAGuard guard(p.out.device());
    const auto stream = at::cuda::getCurrentCUDAStream();
    with_types(p.out, p.labels, [&](auto storage, auto label) {
      using S = decltype(storage);
      using L = decltype(label);
      const int64_t total = p.out.numel();
      spread_table<S, L><<<blocks_of(total, 256), 256, 0, stream>>>(
          p.table.const_data_ptr<S>(), p.labels.const_data_ptr<L>(), total, p.channels, p.pixels, p.regions,
          p.channels_last, p.out.mutable_data_ptr<S>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
};

}  // namespace
}  // namespace facex::region::cuda

TORCH_LIBRARY_IMPL(facex, CUDA, m) { facex::region::Operators<facex::region::cuda::Backend>::implement(m); }
