"""AMCosFace and AMArcFace against their formulas, at the edges, and through the sharded head."""

from __future__ import annotations

import math

import pytest
import torch
from facex_msml.margins import AMArcFace, AMCosFace

from facex.errors import ConfigError
from facex.heads import ArcFace, CosFace, Margin, MarginHead
from facex.heads.reference import ReferenceClassifier

GRID = [(0.0, 0.0), (1.2, 0.1), (0.7, -0.2)]


def by_hand(margin: Margin, cos: float) -> float:
    """The target's logit, in Python's own float64."""
    theta = math.acos(cos)
    assert isinstance(margin, AMCosFace | AMArcFace)
    if isinstance(margin, AMCosFace):
        return margin.scale * (cos - margin.m + margin.k * (theta - margin.a))
    return margin.scale * math.cos(theta + margin.m - margin.k * (theta - margin.a))


@pytest.mark.parametrize("kind", [AMCosFace, AMArcFace])
@pytest.mark.parametrize(("a", "k"), GRID)
def test_the_logit_is_the_formula(kind: type[Margin], a: float, k: float) -> None:
    margin = kind(s=30.0, m=0.45, a=a, k=k)  # type: ignore[call-arg]
    cos = torch.linspace(-0.999, 0.999, 41, dtype=torch.float64, requires_grad=True)
    found = margin.target(cos, torch.ones_like(cos))
    expected = torch.tensor([by_hand(margin, c) for c in cos.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda c: margin.target(c, torch.ones_like(c)), cos)


@pytest.mark.parametrize(("ours", "plain"), [(AMCosFace, CosFace(64, 0.4)), (AMArcFace, ArcFace(64, 0.4))])
def test_without_the_adaptive_part_they_are_cosface_and_arcface(ours: type[Margin], plain: Margin) -> None:
    cos = torch.linspace(-0.99, 0.99, 31, dtype=torch.float64)
    found = ours(s=64.0, m=0.4).target(cos, cos)  # type: ignore[call-arg]
    torch.testing.assert_close(found, plain.target(cos, cos))


@pytest.mark.parametrize("kind", [AMCosFace, AMArcFace])
def test_gradients_are_finite_at_the_edges_unless_asked_for(kind: type[Margin]) -> None:
    for edge in (-1.0, 1.0, 1.0000001):
        cos = torch.tensor([edge], requires_grad=True)
        kind(k=0.0).target(cos, cos).sum().backward()  # type: ignore[call-arg]
        assert cos.grad is not None and torch.isfinite(cos.grad).all()
    cos = torch.tensor([1.0], requires_grad=True)
    kind(k=0.0, clamp=0.0).target(cos, cos).sum().backward()  # type: ignore[call-arg]
    assert cos.grad is not None and not torch.isfinite(cos.grad).all()


@pytest.mark.parametrize("kind", [AMCosFace, AMArcFace])
def test_the_sharded_head_computes_the_same(kind: type[Margin]) -> None:
    torch.manual_seed(0)
    margin = kind(s=16.0, a=1.1, k=0.1)  # type: ignore[call-arg]
    weight, x = torch.randn(9, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    labels = torch.tensor([3, -1, 0, 8, 3])
    head = MarginHead(margin, 6, 9, group="alone", dtype=torch.float64)
    head.load_weight(weight)
    plain = ReferenceClassifier(margin, weight)
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = head(first, labels), plain(second, labels)
    a.loss.backward(), b.loss.backward()
    torch.testing.assert_close(a.loss, b.loss)
    torch.testing.assert_close(first.grad, second.grad)
    torch.testing.assert_close(head.grads().full(), plain.weight.grad)


def test_a_clamp_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"clamp must be in \[0, 1\)"):
        AMArcFace(clamp=1.0)
    with pytest.raises(ConfigError, match="scale s must be positive"):
        AMCosFace(s=0.0)
