// dino_loss on CUDA: a block a row. The teacher's logsumexps first, then each student row's logsumexp and its product
// with the teacher's probabilities in one pass, which are made anew where they are needed: no matrix is stored but the
// gradient.
#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "problem.h"

namespace facex::dino {
namespace {

constexpr int kThreads = 512;

__device__ __forceinline__ float exponential(float v) { return __expf(v); }
__device__ __forceinline__ double exponential(double v) { return exp(v); }

// A logsumexp that is made piece by piece.
template <typename T>
struct Running {
  T maximum, sum;
  __device__ void take(T value) {
    const T top = value > maximum ? value : maximum;
    sum = sum * exponential(maximum - top) + exponential(value - top);
    maximum = top;
  }
  __device__ void merge(T other_maximum, T other_sum) {
    const T top = other_maximum > maximum ? other_maximum : maximum;
    sum = sum * exponential(maximum - top) + other_sum * exponential(other_maximum - top);
    maximum = top;
  }
};

template <typename T>
__device__ T lowest() {
  return sizeof(T) == 4 ? T(-3.0e38) : T(-1.0e308);
}

// Over a block; the result is in thread 0.
template <typename T>
__device__ T block_lse(Running<T> own, T* scratch) {
  __syncthreads();
  scratch[threadIdx.x] = own.maximum;
  scratch[blockDim.x + threadIdx.x] = own.sum;
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x >= step) continue;
    own.merge(scratch[threadIdx.x + step], scratch[blockDim.x + threadIdx.x + step]);
    scratch[threadIdx.x] = own.maximum;
    scratch[blockDim.x + threadIdx.x] = own.sum;
  }
  return own.maximum + log(own.sum);
}

template <typename T>
__device__ T block_sum(T value, T* scratch) {
  __syncthreads();
  scratch[threadIdx.x] = value;
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) scratch[threadIdx.x] += scratch[threadIdx.x + step];
  }
  return scratch[0];
}

// Pointers and numbers of one problem. S: stored type, T: accumulation type.
template <typename S, typename T>
struct Rows {
  const S *student, *teacher;
  const T* center;
  int64_t batch, columns;
  T inverse_student, inverse_teacher;

  __device__ T student_at(int64_t row, int64_t k) const { return T(student[row * columns + k]) * inverse_student; }
  __device__ T teacher_at(int64_t row, int64_t k) const {
    return (T(teacher[row * columns + k]) - center[k]) * inverse_teacher;
  }
  // What a student row is compared with at column k: the other teacher view, or the sum of both.
  __device__ T target(int64_t row, int64_t k, const T* teacher_lse) const {
    const int64_t view = row / batch, sample = row % batch;
    T sum = 0;
    if (view != 0) sum += exponential(teacher_at(sample, k) - teacher_lse[sample]);
    if (view != 1) sum += exponential(teacher_at(batch + sample, k) - teacher_lse[batch + sample]);
    return sum;
  }
};

template <typename S, typename T>
__global__ void teacher_rows(Rows<S, T> rows, T* lse) {
  extern __shared__ char memory[];
  Running<T> own{lowest<T>(), T(0)};
  for (int64_t k = threadIdx.x; k < rows.columns; k += blockDim.x) own.take(rows.teacher_at(blockIdx.x, k));
  const T found = block_lse(own, reinterpret_cast<T*>(memory));
  if (threadIdx.x == 0) lse[blockIdx.x] = found;
}

// products[row] = partners * lse - <targets, logits>
template <typename S, typename T>
__global__ void student_rows(Rows<S, T> rows, const T* teacher_lse, T* lse, T* products) {
  extern __shared__ char memory[];
  T* scratch = reinterpret_cast<T*>(memory);
  Running<T> own{lowest<T>(), T(0)};
  T product = 0;
  for (int64_t k = threadIdx.x; k < rows.columns; k += blockDim.x) {
    const T value = rows.student_at(blockIdx.x, k);
    own.take(value);
    product += rows.target(blockIdx.x, k, teacher_lse) * value;
  }
  const T found = block_lse(own, scratch);
  product = block_sum(product, scratch);
  if (threadIdx.x != 0) return;
  lse[blockIdx.x] = found;
  products[blockIdx.x] = T(int64_t(blockIdx.x) < kTeacherViews * rows.batch ? 1 : kTeacherViews) * found - product;
}

template <typename S, typename T>
__global__ void student_gradient(Rows<S, T> rows, const T* grad, T share, const T* lse, const T* teacher_lse, S* out) {
  const int64_t row = blockIdx.x;
  const T factor = grad[row % rows.batch] * share, partners = T(row < kTeacherViews * rows.batch ? 1 : kTeacherViews);
  for (int64_t k = int64_t(blockIdx.y) * blockDim.x + threadIdx.x; k < rows.columns;
       k += int64_t(gridDim.y) * blockDim.x) {
    const T probability = exponential(rows.student_at(row, k) - lse[row]);
    out[row * rows.columns + k] = S(factor * (partners * probability - rows.target(row, k, teacher_lse)));
  }
}

template <typename S, typename T>
Rows<S, T> rows_of(const Problem& p) {
  return {p.student.const_data_ptr<S>(),
          p.teacher.const_data_ptr<S>(),
          p.center.const_data_ptr<T>(),
          p.batch(),
          p.columns(),
          T(p.inverse_student),
          T(p.inverse_teacher)};
}

template <typename S, typename T>
void forward(const Problem& p, at::Tensor& loss, at::Tensor& student_lse, at::Tensor& teacher_lse) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  const Rows<S, T> rows = rows_of<S, T>(p);
  const size_t shared = 2 * kThreads * sizeof(T);
  at::Tensor products = at::empty_like(student_lse);
  teacher_rows<S, T>
      <<<unsigned(p.teacher.size(0)), kThreads, shared, stream>>>(rows, teacher_lse.mutable_data_ptr<T>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  student_rows<S, T><<<unsigned(p.student.size(0)), kThreads, shared, stream>>>(
      rows, teacher_lse.const_data_ptr<T>(), student_lse.mutable_data_ptr<T>(), products.mutable_data_ptr<T>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  at::sum_out(loss, products.view({p.views, p.batch()}), {0});
  loss.div_(p.pairs());
}

template <typename S, typename T>
void backward(const Problem& p, const at::Tensor& grad, const at::Tensor& student_lse, const at::Tensor& teacher_lse,
              at::Tensor& dstudent) {
  const int64_t pieces = std::clamp<int64_t>((p.columns() + 8 * kThreads - 1) / (8 * kThreads), 1, 64);
  const T share = T(p.inverse_student / double(p.pairs()));
  student_gradient<S, T>
      <<<dim3(unsigned(p.student.size(0)), unsigned(pieces)), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
          rows_of<S, T>(p), grad.const_data_ptr<T>(), share, student_lse.const_data_ptr<T>(),
          teacher_lse.const_data_ptr<T>(), dstudent.mutable_data_ptr<S>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

struct CudaBackend {
  static void forward(const Problem& p, at::Tensor& loss, at::Tensor& student_lse, at::Tensor& teacher_lse) {
    const c10::cuda::CUDAGuard guard(p.student.device());
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, p.student.scalar_type(), "facex_dino_loss", [&] {
      using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
      dino::forward<scalar_t, T>(p, loss, student_lse, teacher_lse);
    });
  }
  static void backward(const Problem& p, const at::Tensor& grad, const at::Tensor& student_lse,
                       const at::Tensor& teacher_lse, at::Tensor& dstudent) {
    const c10::cuda::CUDAGuard guard(p.student.device());
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, p.student.scalar_type(), "facex_dino_loss_backward", [&] {
      using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
      dino::backward<scalar_t, T>(p, grad, student_lse, teacher_lse, dstudent);
    });
  }
};

}  // namespace
}  // namespace facex::dino

TORCH_LIBRARY_IMPL(facex, CUDA, m) { facex::dino::Operators<facex::dino::CudaBackend>::implement(m); }
