"""The operators as PyTorch sees them: opcheck, float64 gradcheck, torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.library import opcheck

from facex.ops import cosine_logsumexp, extension, target_cosine
from tests.ops.grids import RULES, make

extension()


def raw_arguments(rule: str, bias: bool, subset: bool) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Tensors and scalars in the order of the schema."""
    inputs = make((4, 6, 30), rule, excluded=2)
    o = inputs.options
    chosen = torch.arange(0, 30, 2) if subset else None
    offsets = torch.randn(30, dtype=torch.float64) if bias else None
    tensors = (o["excluded"], o.get("threshold"), o.get("hard_t"), offsets, chosen)
    return (inputs.x, inputs.weight, tensors), (16.0, o["rule"], not bias, "fp32")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("bias", "subset"), [(False, False), (True, True)])
def test_opcheck(rule: str, bias: bool, subset: bool) -> None:
    (x, w, tensors), scalars = raw_arguments(rule, bias, subset)
    excluded, threshold, hard_t, offsets, chosen = tensors
    leaves = (x.requires_grad_(), w.requires_grad_())
    if offsets is not None:
        offsets.requires_grad_()
    opcheck(torch.ops.facex.cosine_logsumexp.default, (*leaves, excluded, threshold, hard_t, offsets, chosen, *scalars))
    x, w = x.detach(), w.detach()
    offsets = None if offsets is None else offsets.detach()
    common = (x, w, torch.ones(4).double(), torch.ones(4).double(), excluded, torch.ones(4, 2).double())
    rest = (threshold, hard_t, offsets, chosen, *scalars)
    opcheck(torch.ops.facex.cosine_logsumexp_backward.default, (*common, *rest))
    buffer = torch.zeros(15 if subset else 30, 6, dtype=torch.float64)
    opcheck(torch.ops.facex.cosine_logsumexp_backward_into.default, (*common, *rest, buffer))


@pytest.mark.parametrize("impl", ["fused", "generic"])
@pytest.mark.parametrize("rule", RULES)
def test_gradcheck(rule: str, impl: str) -> None:
    inputs = make((3, 5, 11), rule, excluded=2)
    bias = torch.randn(11, dtype=torch.float64, requires_grad=True)

    def call(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return cosine_logsumexp(x, w, bias=b, impl=impl, **{**inputs.options, "scale": 4.0})

    assert torch.autograd.gradcheck(call, (inputs.x.requires_grad_(), inputs.weight.requires_grad_(), bias))


def test_gradcheck_subset() -> None:
    inputs = make((3, 5, 11), excluded=0)
    subset = torch.tensor([1, 4, 5, 9])
    for impl in ("fused", "generic"):
        options = {"scale": 4.0, "subset": subset, "impl": impl}
        leaves = (inputs.x.requires_grad_(), inputs.weight.requires_grad_())
        assert torch.autograd.gradcheck(lambda x, w, o=options: cosine_logsumexp(x, w, **o), leaves)


def test_compiles() -> None:
    """torch.compile traces through without a break, and gives the same numbers and gradients."""
    inputs = make((6, 8, 70))
    x, w = inputs.x.requires_grad_(), inputs.weight.requires_grad_()

    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return cosine_logsumexp(x * 1.0, w, **inputs.options).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(x, w), (x, w))
    for a, b in zip(torch.autograd.grad(compiled(x, w), (x, w)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_target_cosine() -> None:
    inputs = make((5, 6, 20), excluded=3)
    columns = inputs.options["excluded"]
    x, w = inputs.x.requires_grad_(), inputs.weight.requires_grad_()
    for normalize in (True, False):
        value = target_cosine(x, w, columns, normalize)
        rows = torch.nn.functional.normalize(w) if normalize else w
        truth = (x @ rows.t()).gather(1, columns.clamp(min=0)) * (columns >= 0)
        torch.testing.assert_close(value, truth)
        assert torch.autograd.gradcheck(lambda a, b, n=normalize: target_cosine(a, b, columns, n), (x, w))
