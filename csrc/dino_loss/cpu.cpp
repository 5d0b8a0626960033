// dino_loss on the CPU: a sample's rows are walked side by side in chunks that stay in the cache, so the teacher's
// probabilities are made once for all student views, and nothing of the size of the logits is stored but their
// gradient.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cpu_rows.h"
#include "problem.h"

namespace facex::dino {
namespace {

constexpr int64_t kChunk = 1024;

template <typename S>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};

// One worker's view of the problem. S: stored type, T: accumulation type.
template <typename S, typename T = typename Accumulation<S>::type>
class Walk {
 public:
  explicit Walk(const Problem& p) : p_(p), raw_(kChunk), values_(kChunk), q_(3, std::vector<T>(kChunk)) {}

  // logsumexp of the teacher's two rows of a sample.
  void teacher_lse(int64_t sample, T* lse) {
    for (int64_t view = 0; view < kTeacherViews; ++view) {
      Running<T> running = empty();
      chunks([&](int64_t begin, int64_t size) { take(teacher(view, sample, begin, size), size, running); });
      lse[view * p_.batch() + sample] = running.maximum + std::log(running.sum);
    }
  }

  // The sample's loss; the student's logsumexps are left in `student_lse`.
  T loss(int64_t sample, const T* teacher_lse, T* student_lse) {
    std::vector<Running<T>> running(p_.views, empty());
    std::vector<double> dots(p_.views, 0.0);
    chunks([&](int64_t begin, int64_t size) {
      make_targets(sample, begin, size, teacher_lse);
      for (int64_t view = 0; view < p_.views; ++view) {
        const T* values = student(view, sample, begin, size);
        take(values, size, running[view]);
        dots[view] += dot(targets(view), values, size);
      }
    });
    double total = 0;
    for (int64_t view = 0; view < p_.views; ++view) {
      const T lse = running[view].maximum + std::log(running[view].sum);
      student_lse[view * p_.batch() + sample] = lse;
      total += double(p_.partners(view)) * lse - dots[view];
    }
    return T(total / double(p_.pairs()));
  }

  // The gradient of the sample's rows, for the gradient `grad` of its loss.
  void gradient_rows(int64_t sample, T grad, const T* student_lse, const T* teacher_lse, S* dstudent) {
    const T factor = grad * T(p_.inverse_student) / T(p_.pairs());
    chunks([&](int64_t begin, int64_t size) {
      make_targets(sample, begin, size, teacher_lse);
      for (int64_t view = 0; view < p_.views; ++view) {
        const int64_t row = view * p_.batch() + sample;
        const T* values = student(view, sample, begin, size);
        gradient(values, targets(view), student_lse[row], T(p_.partners(view)), factor, size, raw_.data());
        S* out = dstudent + row * p_.columns() + begin;
        for (int64_t k = 0; k < size; ++k) out[k] = S(raw_[k]);
      }
    });
  }

 private:
  static Running<T> empty() { return {-std::numeric_limits<T>::max(), T(0)}; }

  template <typename Visit>
  void chunks(const Visit& visit) {
    for (int64_t begin = 0; begin < p_.columns(); begin += kChunk) {
      visit(begin, std::min(kChunk, p_.columns() - begin));
    }
  }

  const T* load(const at::Tensor& rows, int64_t row, int64_t begin, int64_t size) {
    const S* in = rows.const_data_ptr<S>() + row * p_.columns() + begin;
    if constexpr (std::is_same_v<S, T>) return in;
    for (int64_t k = 0; k < size; ++k) raw_[k] = T(in[k]);
    return raw_.data();
  }

  const T* student(int64_t view, int64_t sample, int64_t begin, int64_t size) {
    const T* in = load(p_.student, view * p_.batch() + sample, begin, size);
    scaled(in, nullptr, T(p_.inverse_student), size, values_.data());
    return values_.data();
  }

  const T* teacher(int64_t view, int64_t sample, int64_t begin, int64_t size) {
    const T* in = load(p_.teacher, view * p_.batch() + sample, begin, size);
    scaled(in, p_.center.template const_data_ptr<T>() + begin, T(p_.inverse_teacher), size, values_.data());
    return values_.data();
  }

  // The chunk's probabilities of both teacher views, and their sum.
  void make_targets(int64_t sample, int64_t begin, int64_t size, const T* lse) {
    for (int64_t view = 0; view < kTeacherViews; ++view) {
      const T* values = teacher(view, sample, begin, size);
      probabilities(values, lse[view * p_.batch() + sample], size, q_[view].data());
    }
    for (int64_t k = 0; k < size; ++k) q_[2][k] = q_[0][k] + q_[1][k];
  }

  // What a student view is compared with: the other teacher view, or the sum of both.
  const T* targets(int64_t view) const { return q_[view == 0 ? 1 : view == 1 ? 0 : 2].data(); }

  const Problem& p_;
  std::vector<T> raw_, values_;
  std::vector<std::vector<T>> q_;
};

template <typename S, typename T = typename Accumulation<S>::type>
void forward(const Problem& p, at::Tensor& loss, at::Tensor& student_lse, at::Tensor& teacher_lse) {
  T *losses = loss.mutable_data_ptr<T>(), *s = student_lse.mutable_data_ptr<T>(),
    *t = teacher_lse.mutable_data_ptr<T>();
  at::parallel_for(0, p.batch(), 1, [&](int64_t first, int64_t last) {
    Walk<S> walk(p);
    for (int64_t sample = first; sample < last; ++sample) {
      walk.teacher_lse(sample, t);
      losses[sample] = walk.loss(sample, t, s);
    }
  });
}

template <typename S, typename T = typename Accumulation<S>::type>
void backward(const Problem& p, const at::Tensor& grad, const at::Tensor& student_lse, const at::Tensor& teacher_lse,
              at::Tensor& dstudent) {
  const T *g = grad.const_data_ptr<T>(), *s = student_lse.const_data_ptr<T>(), *t = teacher_lse.const_data_ptr<T>();
  S* out = dstudent.mutable_data_ptr<S>();
  at::parallel_for(0, p.batch(), 1, [&](int64_t first, int64_t last) {
    Walk<S> walk(p);
    for (int64_t sample = first; sample < last; ++sample) walk.gradient_rows(sample, g[sample], s, t, out);
  });
}

struct CpuBackend {
  static void forward(const Problem& p, at::Tensor& loss, at::Tensor& student_lse, at::Tensor& teacher_lse) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, p.student.scalar_type(), "facex_dino_loss",
                                    [&] { dino::forward<scalar_t>(p, loss, student_lse, teacher_lse); });
  }
  static void backward(const Problem& p, const at::Tensor& grad, const at::Tensor& student_lse,
                       const at::Tensor& teacher_lse, at::Tensor& dstudent) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, p.student.scalar_type(), "facex_dino_loss_backward",
                                    [&] { dino::backward<scalar_t>(p, grad, student_lse, teacher_lse, dstudent); });
  }
};

}  // namespace
}  // namespace facex::dino

TORCH_LIBRARY_IMPL(facex, CPU, m) { facex::dino::Operators<facex::dino::CpuBackend>::implement(m); }
