// The checked arguments of dino_loss.
#pragma once

#include <ATen/ATen.h>

namespace facex::dino {

constexpr int64_t kTeacherViews = 2;

// student [V * B, K] and teacher [2 * B, K] view by view, of one type (float, double, half or bfloat16), and the centre
// [K] in the accumulation type.
struct Problem {
  Problem(const at::Tensor& student_, const at::Tensor& teacher_, const at::Tensor& center_, int64_t views_,
          double student_temp, double teacher_temp)
      : student(student_.contiguous()),
        teacher(teacher_.contiguous()),
        center(center_.contiguous()),
        views(views_),
        inverse_student(1.0 / student_temp),
        inverse_teacher(1.0 / teacher_temp) {
    TORCH_CHECK(student.dim() == 2 && teacher.dim() == 2 && student.size(1) == teacher.size(1) && views >= 2 &&
                    student.size(0) % views == 0 && teacher.size(0) == kTeacherViews * batch(),
                "dino_loss: student [V * B, K] with V >= 2 and teacher [2 * B, K] are wanted, got ", student.sizes(),
                " and ", teacher.sizes(), " for V = ", views);
    TORCH_CHECK(student.scalar_type() == teacher.scalar_type(), "dino_loss: student and teacher of one type, got ",
                student.scalar_type(), " and ", teacher.scalar_type());
    TORCH_CHECK(center.numel() == columns() && center.scalar_type() == accumulation(),
                "dino_loss: a centre of K numbers of type ", accumulation(), " is wanted, got ", center.sizes(), " of ",
                center.scalar_type());
    TORCH_CHECK(student_temp > 0 && teacher_temp > 0, "dino_loss: temperatures are positive");
  }

  int64_t batch() const { return student.size(0) / views; }
  int64_t columns() const { return student.size(1); }
  int64_t pairs() const { return kTeacherViews * (views - 1); }
  // How many teacher views a student view is compared with.
  int64_t partners(int64_t view) const { return view < kTeacherViews ? 1 : kTeacherViews; }
  at::ScalarType accumulation() const { return student.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }
  at::TensorOptions options() const { return student.options().dtype(accumulation()); }

  at::Tensor student, teacher, center;
  int64_t views;
  double inverse_student, inverse_teacher;
};

// What both backends register; `Backend` has forward(problem, loss, student_lse, teacher_lse) and backward(problem,
// grad, student_lse, teacher_lse, dstudent), whose outputs are uninitialised.
template <typename Backend>
struct Operators {
  static std::tuple<at::Tensor, at::Tensor, at::Tensor> dino_loss(const at::Tensor& student, const at::Tensor& teacher,
                                                                  const at::Tensor& center, int64_t views,
                                                                  double student_temp, double teacher_temp) {
    const Problem p(student, teacher, center, views, student_temp, teacher_temp);
    at::Tensor loss = at::empty({p.batch()}, p.options());
    at::Tensor student_lse = at::empty({p.student.size(0)}, p.options());
    at::Tensor teacher_lse = at::empty({p.teacher.size(0)}, p.options());
    if (p.batch() > 0) Backend::forward(p, loss, student_lse, teacher_lse);
    return {loss, student_lse, teacher_lse};
  }

  static at::Tensor dino_loss_backward(const at::Tensor& grad, const at::Tensor& student, const at::Tensor& teacher,
                                       const at::Tensor& center, const at::Tensor& student_lse,
                                       const at::Tensor& teacher_lse, int64_t views, double student_temp,
                                       double teacher_temp) {
    const Problem p(student, teacher, center, views, student_temp, teacher_temp);
    TORCH_CHECK(grad.sizes() == at::IntArrayRef({p.batch()}) && grad.scalar_type() == p.accumulation(),
                "dino_loss_backward: one gradient a sample is wanted, got ", grad.sizes());
    at::Tensor dstudent = at::empty(p.student.sizes(), p.student.options());
    if (p.batch() > 0) {
      Backend::backward(p, grad.contiguous(), student_lse.contiguous(), teacher_lse.contiguous(), dstudent);
    }
    return dstudent;
  }

  static void implement(torch::Library& m) {
    m.impl("dino_loss", &dino_loss);
    m.impl("dino_loss_backward", &dino_loss_backward);
  }
};

}  // namespace facex::dino
