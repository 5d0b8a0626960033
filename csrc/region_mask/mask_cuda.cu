// region_mask on CUDA: a thread a run of pixels, 16 bytes of a channel at a time; nothing waits for the host.
#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "mask_problem.h"

namespace facex::region_mask {
namespace {

constexpr int kThreads = 256;

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// Adds a thread's pixels to the block's areas; neighbours are mostly of one region and are counted together.
template <int N>
__device__ void add_areas(const Pack<uint8_t, N>& ids, int* areas) {
  int run = 1;
#pragma unroll
  for (int i = 1; i < N; ++i) {
    if (ids.values[i] == ids.values[i - 1]) {
      ++run;
    } else {
      atomicAdd(areas + ids.values[i - 1], run);
      run = 1;
    }
  }
  atomicAdd(areas + ids.values[N - 1], run);
}

// Grid: (runs of N pixels of an image, image). N divides the pixels, and the pointers are aligned for Pack<T, N>.
template <typename T, int N>
__global__ void mask_regions(const T* images, const uint8_t* regions, const T* keep, int channels, int64_t pixels,
                             int count, T* masked, int* areas) {
  __shared__ T factor[kMost];
  __shared__ int area[kMost];
  const int64_t image = blockIdx.y;
  for (int k = threadIdx.x; k < count; k += blockDim.x) {
    factor[k] = keep[image * count + k];
    area[k] = 0;
  }
  __syncthreads();
  const int64_t at = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at < pixels) {
    const auto ids = *reinterpret_cast<const Pack<uint8_t, N>*>(regions + image * pixels + at);
    T mine[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      CUDA_KERNEL_ASSERT(ids.values[i] < count && "region_mask: the label map names a region outside keep");
      mine[i] = factor[ids.values[i]];
    }
    for (int c = 0; c < channels; ++c) {
      const int64_t plane = (image * channels + c) * pixels + at;
      auto pack = *reinterpret_cast<const Pack<T, N>*>(images + plane);
#pragma unroll
      for (int i = 0; i < N; ++i) pack.values[i] = pack.values[i] * mine[i];
      *reinterpret_cast<Pack<T, N>*>(masked + plane) = pack;
    }
    add_areas<N>(ids, area);
  }
  __syncthreads();
  // Whole numbers add up to the same in any order.
  for (int k = threadIdx.x; k < count; k += blockDim.x) {
    if (area[k] > 0) atomicAdd(areas + image * count + k, area[k]);
  }
}

template <typename T, int N>
void launch(const Mask& m, at::Tensor& masked, at::Tensor& areas) {
  const int64_t runs = m.pixels() / N;
  const dim3 grid(unsigned((runs + kThreads - 1) / kThreads), unsigned(m.batch()));
  mask_regions<T, N><<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      m.images.const_data_ptr<T>(), m.regions.const_data_ptr<uint8_t>(), m.keep.const_data_ptr<T>(), int(m.channels()),
      m.pixels(), int(m.count()), masked.mutable_data_ptr<T>(), areas.mutable_data_ptr<int>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

bool aligned(const at::Tensor& tensor, size_t bytes) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes == 0;
}

struct CudaBackend {
  static void run(const Mask& m, at::Tensor& masked, at::Tensor& areas) {
    TORCH_CHECK_VALUE(m.batch() <= 65535, "region_mask takes at most 65535 pictures at a time on CUDA");
    const c10::cuda::CUDAGuard guard(m.images.device());
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, m.images.scalar_type(), "facex_region_mask", [&] {
      constexpr int N = 16 / sizeof(scalar_t);
      const bool whole = m.pixels() % N == 0 && aligned(m.images, 16) && aligned(masked, 16) && aligned(m.regions, N);
      if (whole) return launch<scalar_t, N>(m, masked, areas);
      launch<scalar_t, 1>(m, masked, areas);
    });
  }
};

}  // namespace
}  // namespace facex::region_mask

TORCH_LIBRARY_IMPL(facex, CUDA, m) {
  m.impl("region_mask", &facex::region_mask::region_mask<facex::region_mask::CudaBackend>);
}
