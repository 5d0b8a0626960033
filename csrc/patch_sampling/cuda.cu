// sample_patches on CUDA: a block a landmark, nothing waits for the host.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "problem.h"

namespace facex::patches {
namespace {

constexpr int kThreads = 192;  // the numbers of an 8 x 8 patch in three colours
constexpr int kWarp = 32;

// Sizes that every kernel takes.
struct Shape {
  int count, patch, channels, height, width;
  __device__ int column() const { return patch * channels; }
  __device__ int features() const { return patch * patch * channels; }
};

// Along one axis: the first pixel of a patch (what lies far outside is moved to just outside), and how far its pixels
// stand from those of the image, each the weight of the next pixel.
template <typename T>
struct Axis {
  __device__ Axis(T landmark_, int size_, int patch_) : landmark(landmark_), size(size_), patch(patch_) {
    whole = floor(coordinate(landmark, 0, patch, size));
    start = !(whole >= T(-patch - 1)) ? -patch - 1 : whole > T(size) ? size : int(whole);
  }
  __device__ T weight(int i) const { return coordinate(landmark, i, patch, size) - (whole + T(i)); }

  T landmark, whole;
  int size, patch, start;
};

template <typename T>
__device__ T pixel(const T* image, const Shape& s, int c, int y, int x) {
  const bool inside = x >= 0 && x < s.width && y >= 0 && y < s.height;
  return inside ? image[(int64_t(c) * s.height + y) * s.width + x] : T(0);
}

template <typename T>
__global__ void read_patches(const T* images, const T* landmarks, Shape s, T* tokens) {
  const int64_t n = blockIdx.x, b = n / s.count;
  const Axis<T> along(landmarks[2 * n], s.width, s.patch), down(landmarks[2 * n + 1], s.height, s.patch);
  const T* image = images + b * s.channels * int64_t(s.height) * s.width;
  for (int e = threadIdx.x; e < s.features(); e += blockDim.x) {
    const int c = e % s.channels, j = e / s.channels % s.patch, i = e / s.column();
    const int y = down.start + j, x = along.start + i;
    const T wx = along.weight(i), wy = down.weight(j);
    const T upper = (1 - wx) * pixel(image, s, c, y, x) + wx * pixel(image, s, c, y, x + 1);
    const T lower = (1 - wx) * pixel(image, s, c, y + 1, x) + wx * pixel(image, s, c, y + 1, x + 1);
    tokens[n * s.features() + e] = (1 - wy) * upper + wy * lower;
  }
}

// The sum over a block; the result is in thread 0.
template <typename T>
__device__ T block_sum(T value, T* scratch) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  if (threadIdx.x >= kWarp) return value;
  value = threadIdx.x < blockDim.x / kWarp ? scratch[threadIdx.x] : T(0);
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  return value;
}

template <typename T>
__global__ void slope_patches(const T* images, const T* landmarks, const T* grad, Shape s, T* dlandmarks) {
  __shared__ T scratch[kWarp];
  const int64_t n = blockIdx.x, b = n / s.count;
  const Axis<T> along(landmarks[2 * n], s.width, s.patch), down(landmarks[2 * n + 1], s.height, s.patch);
  T along_x = 0, along_y = 0;
  const T* image = images + b * s.channels * int64_t(s.height) * s.width;
  for (int e = threadIdx.x; e < s.features(); e += blockDim.x) {
    const int c = e % s.channels, j = e / s.channels % s.patch, i = e / s.column();
    const int y = down.start + j, x = along.start + i;
    const T wx = along.weight(i), wy = down.weight(j);
    const T p00 = pixel(image, s, c, y, x), p01 = pixel(image, s, c, y + 1, x);
    const T p10 = pixel(image, s, c, y, x + 1), p11 = pixel(image, s, c, y + 1, x + 1);
    const T g = grad[n * s.features() + e];
    along_x += g * ((p10 - p00) * (1 - wy) + (p11 - p01) * wy);
    along_y += g * ((p01 - p00) * (1 - wx) + (p11 - p10) * wx);
  }
  along_x = block_sum(along_x, scratch);
  along_y = block_sum(along_y, scratch);
  if (threadIdx.x == 0) {
    dlandmarks[2 * n] = along_x;
    dlandmarks[2 * n + 1] = along_y;
  }
}

// One pixel of the patch's (patch + 1)^2 a thread: it gathers from up to four tokens, then one atomic addition. Patches
// overlap, so the sums of the image's gradient are made in no fixed order.
template <typename T>
__global__ void add_patches(const T* landmarks, const T* grad, Shape s, T* dimages) {
  const int64_t n = blockIdx.x, b = n / s.count;
  const Axis<T> along(landmarks[2 * n], s.width, s.patch), down(landmarks[2 * n + 1], s.height, s.patch);
  T* image = dimages + b * s.channels * int64_t(s.height) * s.width;
  const T* g = grad + n * s.features();
  const int side = s.patch + 1;
  for (int e = threadIdx.x; e < side * side * s.channels; e += blockDim.x) {
    const int i = e % side, j = e / side % side, c = e / (side * side), x = along.start + i, y = down.start + j;
    if (x < 0 || x >= s.width || y < 0 || y >= s.height) continue;
    T sum = 0;
    for (int u = max(i - 1, 0); u <= min(i, s.patch - 1); ++u) {
      const T a = u == i ? 1 - along.weight(u) : along.weight(u);
      for (int v = max(j - 1, 0); v <= min(j, s.patch - 1); ++v) {
        const T b = v == j ? 1 - down.weight(v) : down.weight(v);
        sum += a * b * g[(u * s.patch + v) * s.channels + c];
      }
    }
    atomicAdd(image + (int64_t(c) * s.height + y) * s.width + x, sum);
  }
}

template <typename T>
void forward(const Problem& p, const Shape& s, at::Tensor& tokens) {
  read_patches<T><<<unsigned(p.batch() * p.count()), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      p.images.const_data_ptr<T>(), p.landmarks.const_data_ptr<T>(), s, tokens.mutable_data_ptr<T>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void backward(const Problem& p, const Shape& s, const at::Tensor& grad, at::Tensor dimages, at::Tensor dlandmarks) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  const unsigned blocks = unsigned(p.batch() * p.count());
  if (dimages.defined()) {
    at::globalContext().alertNotDeterministic("facex::sample_patches_backward");
    add_patches<T><<<blocks, kThreads, 0, stream>>>(p.landmarks.const_data_ptr<T>(), grad.const_data_ptr<T>(), s,
                                                    dimages.mutable_data_ptr<T>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  if (dlandmarks.defined()) {
    slope_patches<T><<<blocks, kThreads, 0, stream>>>(p.images.const_data_ptr<T>(), p.landmarks.const_data_ptr<T>(),
                                                      grad.const_data_ptr<T>(), s, dlandmarks.mutable_data_ptr<T>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

Shape shape_of(const Problem& p) {
  return {int(p.count()), int(p.patch), int(p.channels()), int(p.height()), int(p.width())};
}

struct CudaBackend {
  static void forward(const Problem& p, at::Tensor& tokens) {
    const c10::cuda::CUDAGuard guard(p.images.device());
    if (p.images.scalar_type() == at::kDouble) return patches::forward<double>(p, shape_of(p), tokens);
    patches::forward<float>(p, shape_of(p), tokens);
  }
  static void backward(const Problem& p, const at::Tensor& grad, at::Tensor dimages, at::Tensor dlandmarks) {
    const c10::cuda::CUDAGuard guard(p.images.device());
    if (p.images.scalar_type() == at::kDouble)
      return patches::backward<double>(p, shape_of(p), grad, dimages, dlandmarks);
    patches::backward<float>(p, shape_of(p), grad, dimages, dlandmarks);
  }
};

}  // namespace
}  // namespace facex::patches

TORCH_LIBRARY_IMPL(facex, CUDA, m) { facex::patches::Operators<facex::patches::CudaBackend>::implement(m); }
