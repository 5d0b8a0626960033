"""The self-distillation loss: the compiled operator against the formula, its gradient, its memory, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.nn import functional as F

from facex.ops import dino_loss, extension

extension()
SIZES = [(3, 5, 70), (2, 2, 1030), (1, 10, 2048), (4, 3, 1)]  # B V K


def inputs(size: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher, and a centre."""
    batch, views, columns = size
    torch.manual_seed(0)
    student, teacher = torch.randn(views * batch, columns), torch.randn(2 * batch, columns)
    centre = 0.1 * torch.randn(1, columns, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    return student.to(dtype), teacher.to(dtype), centre


def by_hand(student: Tensor, teacher: Tensor, centre: Tensor, views: int, s: float, t: float) -> Tensor:
    """The loss of each sample from its definition, in float64."""
    batch = len(teacher) // 2
    losses = []
    for b in range(batch):
        terms = []
        for i in range(2):
            q = F.softmax((teacher[i * batch + b].double() - centre[0].double()) / t, dim=0)
            for j in range(views):
                if j != i:
                    terms.append(-(q * F.log_softmax(student[j * batch + b].double() / s, dim=0)).sum())
        losses.append(torch.stack(terms).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradient_are_the_definition(size: tuple[int, int, int], impl: str) -> None:
    student, teacher, centre = inputs(size)
    student.requires_grad_()
    want = by_hand(student, teacher, centre, size[1], 0.1, 0.05)
    got = dino_loss(student, teacher, centre, size[1], 0.1, 0.05, impl=impl)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    upstream = torch.linspace(-1, 2, size[0], dtype=torch.float64)
    (mine,), (theirs,) = (torch.autograd.grad(v, student, upstream, retain_graph=True) for v in (got, want))
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_16_bit_logits_are_summed_in_32(dtype: torch.dtype) -> None:
    student, teacher, centre = inputs((3, 4, 1500), dtype)
    student.requires_grad_()
    loss = dino_loss(student, teacher, centre, 4, 0.1, 0.04, impl="fused")
    assert loss.dtype == torch.float32
    want = by_hand(student.detach(), teacher, centre, 4, 0.1, 0.04)
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.dtype == dtype
    exact = student.detach().double().requires_grad_()
    (true,) = torch.autograd.grad(by_hand(exact, teacher, centre, 4, 0.1, 0.04).sum(), exact)
    eps = torch.finfo(dtype).eps
    # an exponent of about 100 has an error of 1e-5 in float32
    assert ((gradient.double() - true).abs() <= 2 * eps * true.abs() + 1e-5).all()


def test_gradcheck() -> None:
    student, teacher, centre = inputs((2, 3, 6))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dino_loss(x, teacher, centre, 3, 0.5, 0.3, impl="fused"), (student,))


def test_opcheck() -> None:
    student, teacher, centre = inputs((2, 4, 30))
    student.requires_grad_()
    opcheck(torch.ops.facex.dino_loss.default, (student, teacher, centre[0], 4, 0.1, 0.04))
    found = torch.ops.facex.dino_loss(student.detach(), teacher, centre[0], 4, 0.1, 0.04)
    common = (torch.ones(2).double(), student.detach(), teacher, centre[0], *found[1:], 4, 0.1, 0.04)
    opcheck(torch.ops.facex.dino_loss_backward.default, common)


def test_nothing_of_the_logits_size_is_kept_but_the_logits() -> None:
    student, teacher, centre = inputs((4, 10, 5000), torch.bfloat16)
    student.requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        dino_loss(student, teacher, centre, 10, impl="fused")
    assert sum(kept) <= student.nbytes + teacher.nbytes + centre.nbytes + 4 * 5 * len(student)


def test_large_logits_stay_finite_and_nan_shows() -> None:
    student, teacher, centre = inputs((2, 3, 40), torch.float32)
    loss = dino_loss(1e4 * student, 1e4 * teacher, centre, 3, 0.1, 0.04, impl="fused")
    assert loss.isfinite().all()
    student[1, 7] = float("nan")
    loss = dino_loss(student, teacher, centre, 3, impl="fused")
    assert loss[0].isfinite()
    assert loss[1].isnan()


def test_threads_do_not_change_a_bit() -> None:
    student, teacher, centre = inputs((5, 4, 3000), torch.float32)
    student.requires_grad_()
    results, threads = [], torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        loss = dino_loss(student, teacher, centre, 4, impl="fused")
        results.append((loss, *torch.autograd.grad(loss.sum(), student)))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_gradient_reaches_teacher_and_centre() -> None:
    student, teacher, centre = (t.requires_grad_() for t in inputs((2, 3, 20)))
    dino_loss(student, teacher, centre, 3).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert centre.grad is None


@pytest.mark.parametrize(
    ("student", "teacher", "views", "temps", "message"),
    [
        ((6, 5), (4, 5), 1, (0.1, 0.04), "at least 2"),
        ((7, 5), (4, 5), 3, (0.1, 0.04), "logits"),
        ((6, 5), (2, 5), 3, (0.1, 0.04), "logits"),
        ((6, 5), (4, 6), 3, (0.1, 0.04), "logits"),
        ((6, 5), (4, 5), 3, (0.1, 0.0), "temperatures are positive"),
    ],
)
def test_bad_input(
    student: tuple[int, int], teacher: tuple[int, int], views: int, temps: tuple[float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dino_loss(torch.rand(student), torch.rand(teacher), torch.zeros(student[1]), views, *temps)
