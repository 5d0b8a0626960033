"""The loss of self-distillation (DINO: Caron et al., ICCV 2021) over views, without a matrix beside the logits.

    q_a = softmax((t_a - c) / teacher_temp),  a = 0, 1
    loss = mean over pairs (a, b != a) of -sum_k q_a log softmax(s_b / student_temp)

A sample's loss is (sum_b n_b lse_b - <sum_{a != b} q_a, s_b / student_temp>) / (2V - 2), n_b the number of teacher
views that view b is compared with. So two passes over the logits suffice, one for the logsumexps and products and one
for the gradient; softmaxes are made anew chunk by chunk. Nothing of size V * B * K is stored but the gradient, in the
logits' type.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from facex.errors import ExtensionError
from facex.ops.extension import extension, has_kernel

IMPLS = ("auto", "fused", "reference")


def dino_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    views: int,
    student_temp: float = 0.1,
    teacher_temp: float = 0.04,
    impl: str = "auto",
) -> Tensor:
    """A sample's loss, float32 [B] (float64 for float64 logits); differentiable in `student` alone.

    `student` [views * B, K] and `teacher` [2 * B, K] are logits view by view: the rows of view 0, those of view 1,
    ...; the teacher's views are the student's first two. `center` [K] or [1, K] is taken off the teacher's logits.
    16-bit logits are read as they are; sums are float32. `impl`: "fused" is the compiled operator, "reference" plain
    PyTorch (it stores softmaxes), "auto" the first that is there.

    Raises ValueError for shapes that do not fit, ExtensionError where "fused" has no kernel.
    """
    batch = _check(student, teacher, center, views, student_temp, teacher_temp)
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    teacher, center = teacher.detach().to(student.dtype), center.detach().reshape(-1).to(dtype)
    if _choose(impl, student) == "reference":
        return reference(student, teacher, center, views, student_temp, teacher_temp, batch)
    loss, _, _ = torch.ops.facex.dino_loss(student, teacher, center, views, student_temp, teacher_temp)
    return loss


def reference(
    student: Tensor, teacher: Tensor, center: Tensor, views: int, student_temp: float, teacher_temp: float, batch: int
) -> Tensor:
    """The same, term by term as the formula says it."""
    q = F.softmax((teacher.to(center.dtype) - center) / teacher_temp, dim=1).view(2, batch, -1)
    log_p = F.log_softmax(student.to(center.dtype) / student_temp, dim=1).view(views, batch, -1)
    terms = [-(q[a] * log_p[b]).sum(1) for a in range(2) for b in range(views) if a != b]
    return torch.stack(terms).mean(0)


def _check(
    student: Tensor, teacher: Tensor, center: Tensor, views: int, student_temp: float, teacher_temp: float
) -> int:
    """The number of samples."""
    batch = student.shape[0] // max(views, 1)
    if (
        student.dim() != 2
        or teacher.dim() != 2
        or views < 2
        or student.shape[0] != views * batch
        or tuple(teacher.shape) != (2 * batch, student.shape[1])
        or center.numel() != student.shape[1]
    ):
        raise ValueError(
            f"dino_loss reads logits [views * B, K] of the student, [2 * B, K] of the teacher and a centre [K], not "
            f"{tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(center.shape)} for {views} views (at least 2)"
        )
    if not (student_temp > 0 and teacher_temp > 0):
        raise ValueError(f"temperatures are positive, not {student_temp} and {teacher_temp}")
    return batch


def _choose(impl: str, logits: Tensor) -> str:
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLS)}")
    if impl == "reference":
        return impl
    if has_kernel("dino_loss", logits.device.type):
        return "fused"
    if impl == "auto":
        return "reference"
    extension()  # says what is wrong with it, if that is the reason
    raise ExtensionError(f"facex._C was built without kernels for {logits.device.type}: build it again, or use auto")


# -- what torch is told about the operator ----------------------------------------------------------------------------
def _fake(
    student: Tensor, teacher: Tensor, center: Tensor, views: int, student_temp: float, teacher_temp: float
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = center.dtype
    return (
        student.new_empty(student.shape[0] // views, dtype=dtype),
        student.new_empty(student.shape[0], dtype=dtype),
        student.new_empty(teacher.shape[0], dtype=dtype),
    )


def _backward_fake(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    student_lse: Tensor,
    teacher_lse: Tensor,
    views: int,
    student_temp: float,
    teacher_temp: float,
) -> Tensor:
    return student.new_empty(student.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    student, teacher, center, *ctx.numbers = inputs
    _, student_lse, teacher_lse = output
    ctx.mark_non_differentiable(student_lse, teacher_lse)
    ctx.save_for_backward(student, teacher, center, student_lse, teacher_lse)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    dstudent = torch.ops.facex.dino_loss_backward(grad, *ctx.saved_tensors, *ctx.numbers)
    return dstudent, None, None, None, None, None


def register() -> None:
    """Register the fakes and autograd; called once, by `facex.ops.extension()`."""
    torch.library.register_fake("facex::dino_loss", _fake)
    torch.library.register_fake("facex::dino_loss_backward", _backward_fake)
    torch.library.register_autograd("facex::dino_loss", _backward, setup_context=_setup_context)
