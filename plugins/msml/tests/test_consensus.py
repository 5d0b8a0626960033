"""The segmentation loss against its definition written as loops in float64, and what it does at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from facex_msml.consensus_loss import ConsensusLoss
from torch import Tensor

from facex.errors import ConfigError


def defined(logits: Tensor, clean: Tensor, alpha: float = 10.0, beta: float = 5.0) -> Tensor:
    """The definition, label by label and picture by picture; differentiable."""
    probability = torch.softmax(logits.double(), 1)
    labels = sorted(set(clean.long().flatten().tolist()))
    total = torch.zeros((), dtype=torch.float64)
    for label in labels:
        votes, deviations, pixels = torch.zeros(()).double(), torch.zeros(()).double(), 0
        for picture in range(len(clean)):
            inside = clean[picture].long() == label
            if not inside.any():
                continue
            own = probability[picture][:, inside]
            mean = own.mean(1)
            votes = votes - mean[label].log()
            deviations = deviations + (mean[:, None] * (mean[:, None].log() - own.log())).sum()
            pixels += 2 * int(inside.sum())
        total = total + alpha * votes / len(clean) + beta * deviations / pixels
    return total / len(labels)


def draw(rule: str, seed: int = 0, shape: tuple[int, int, int] = (3, 6, 5)) -> tuple[Tensor, Tensor]:
    """Logits float64 and a mask, 1 = clean."""
    torch.manual_seed(seed)
    n, height, width = shape
    clean = torch.rand(shape) > 0.4
    if rule == "one clean":
        clean[0] = True
    elif rule == "one occluded":
        clean[0] = False
    elif rule != "mixed":
        clean[:] = rule == "all clean"
    return 2 * torch.randn(n, 2, height, width, dtype=torch.float64), clean


RULES = ["mixed", "one clean", "one occluded", "all clean", "all occluded"]


@pytest.mark.parametrize("rule", RULES)
def test_value_and_gradient_are_the_definitions(rule: str) -> None:
    logits, clean = draw(rule)
    first, second = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = ConsensusLoss()(first, clean.to(torch.uint8)), defined(second, clean)
    torch.testing.assert_close(loss, expected)
    loss.backward(), expected.backward()
    torch.testing.assert_close(first.grad, second.grad)
    assert torch.autograd.gradcheck(lambda x: ConsensusLoss(3.0, 2.0)(x, clean), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, clean = draw("mixed", shape=(2, 40, 40))
    low = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ConsensusLoss()(low, clean)
    loss.backward()
    assert loss.dtype == torch.float32
    assert low.grad is not None and low.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), defined(low.detach(), clean), rtol=1e-5, atol=1e-6)


def test_an_underflow_is_infinite_unless_clamped() -> None:
    clean = torch.ones(1, 4, 4, dtype=torch.bool)
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1).repeat(1, 1, 4, 4).requires_grad_()
    assert torch.isinf(ConsensusLoss()(logits, clean))
    loss = ConsensusLoss(clamp_min=1e-12)(logits, clean)
    loss.backward()
    assert math.isclose(loss.item(), 10 * -math.log(1e-12), rel_tol=1e-5)
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("values", [(50.0, -50.0), (-50.0, 50.0), (3e4, -3e4)])
def test_confident_predictions_are_finite(values: tuple[float, float]) -> None:
    _, clean = draw("mixed", shape=(2, 6, 6))
    logits = torch.where(
        clean[:, None], torch.tensor(values).flip(0).view(1, 2, 1, 1), torch.tensor(values).view(1, 2, 1, 1)
    )
    logits.requires_grad_()
    loss = ConsensusLoss(clamp_min=1e-12)(logits, clean)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_global_statistics_over_two_ranks_are_the_joined_batch() -> None:
    logits, clean = draw("mixed", shape=(4, 6, 5))
    clean[2:] = True  # the second rank sees one label only
    whole = logits.clone().requires_grad_()
    expected = defined(whole, clean)
    expected.backward()
    counts: list[Tensor] = []

    def note(values: Tensor) -> Tensor:
        counts.append(values.clone())
        return values

    parts = [slice(0, 2), slice(2, 4)]
    for part in parts:
        ConsensusLoss(statistics="global")(logits[part], clean[part], note)
    total, losses, gradients = counts[0] + counts[1], [], []
    for part in parts:
        own = logits[part].clone().requires_grad_()
        loss = ConsensusLoss(statistics="global")(own, clean[part], lambda values: total)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(own.grad)
    torch.testing.assert_close(sum(losses) / 2, expected.detach())
    torch.testing.assert_close(torch.cat(gradients) / 2, whole.grad)  # type: ignore[arg-type]
    local = sum(ConsensusLoss()(logits[p], clean[p]) for p in parts) / 2
    assert abs(local - expected.detach()) > 1e-3


def test_what_does_not_belong_together_is_refused() -> None:
    logits, clean = draw("mixed")
    with pytest.raises(ConfigError, match=r"got \(3, 2, 6, 5\) and \(3, 6, 4\)"):
        ConsensusLoss()(logits, clean[:, :, :4])
    with pytest.raises(ConfigError, match="statistics global needs an all_reduce"):
        ConsensusLoss(statistics="global")(logits, clean)
    with pytest.raises(ConfigError, match="local or global"):
        ConsensusLoss(statistics="world")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="clamp_min"):
        ConsensusLoss(clamp_min=1.0)
