"""facex::mask_aggregate as PyTorch sees it (opcheck, gradcheck, torch.compile, autocast), and its goldens."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

from facex.ops import extension, mask_aggregate, mask_aggregate_reference
from tests.golden.discover import find_cases
from tests.golden.harness import run_case
from tests.golden.kinds.msml_ops import KINDS
from tests.ops.mask_grids import ORDERS, RULES, inputs

extension()

face = sys.modules["facex.ops.mask_aggregate"]
GOLDENS = Path(__file__).parents[1] / "golden" / "msml"


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("rule", RULES, ids="-".join)
def test_gradcheck(rule: tuple[str, str], impl: str) -> None:
    y, a, extra = (t.requires_grad_() for t in inputs((2, 3, 2, 2), torch.float64, rule))
    for skip in (True, False):

        def call(*t: Tensor, skip: bool = skip) -> Tensor:
            options: dict[str, Any] = {"activation": rule[0], "arith": rule[1], "skip": skip, "impl": impl}
            return mask_aggregate(t[0], t[1], extra=t[2], div_eps=0.05 if rule[1] == "div" else 0.0, **options)

        assert torch.autograd.gradcheck(call, (y, a, extra))


@pytest.mark.parametrize("rule", [("sigmoid", "add"), ("tanh", "div")], ids="-".join)
@pytest.mark.parametrize("order", ["contiguous", "channels_last", "strided"])
def test_opcheck(rule: tuple[str, str], order: str) -> None:
    y, a, g = (ORDERS[order](t) for t in inputs((2, 3, 4, 4), torch.float32, rule))
    options = (*rule, True, 0.01)
    leaves = y.clone(memory_format=torch.preserve_format).requires_grad_(), a.detach().clone().requires_grad_()
    opcheck(torch.ops.facex.mask_aggregate.default, (*leaves, g, *options))
    opcheck(torch.ops.facex.mask_aggregate_backward.default, (g, y, a, *options, True, True))
    opcheck(torch.ops.facex.mask_aggregate_backward.default, (g, y, a, *options, False, True))
    channels = torch.rand(3)
    opcheck(torch.ops.facex.mask_aggregate_folded.default, (y, a, g, channels, channels, channels, None, *options))


@pytest.mark.parametrize("autocast", [False, True])
def test_compiles(autocast: bool) -> None:
    """torch.compile traces through without a break, also under autocast, and gives the same numbers and gradients."""
    convolution = nn.Conv2d(4, 4, 3, padding=1)
    y = torch.randn(2, 4, 6, 6, requires_grad=True)

    def loss(y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            z = mask_aggregate(y, convolution(y), activation="sigmoid", arith="mul", extra=y * 2)
        assert z.dtype == torch.float32
        return z.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(loss(y), y)
    (value,) = torch.autograd.grad(compiled(y), y)
    torch.testing.assert_close(value, expected, rtol=2e-2 if autocast else 1e-5, atol=2e-2 if autocast else 1e-5)


@pytest.mark.parametrize(("arith", "kept"), [("add", 1), ("sub", 1), ("mul", 2), ("div", 2)])
def test_keeps_no_more_than_the_backward_pass_reads(arith: str, kept: int) -> None:
    y, a, _ = (t.requires_grad_() for t in inputs((2, 3, 4, 4), torch.float32, ("sigmoid", arith)))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        mask_aggregate(y, a, activation="sigmoid", arith=arith)
    assert len(saved) == kept
    assert all(any(t.data_ptr() == given.data_ptr() for given in (y, a)) for t in saved)


def test_the_operator_checks_by_itself() -> None:
    """Whoever calls torch.ops gets an error, not foreign memory."""
    y, options = torch.ones(2, 4), ("sigmoid", "mul", True, 0.0)
    op = torch.ops.facex
    with pytest.raises(ValueError, match="one shape"):
        op.mask_aggregate(y, torch.ones(2, 3), None, *options)
    with pytest.raises(TypeError, match="one type"):
        op.mask_aggregate(y, y.double(), None, *options)
    with pytest.raises(ValueError, match="need y"):
        op.mask_aggregate_backward(y, None, y, *options, True, True)
    with pytest.raises(ValueError, match="activation is 'relu'"):
        op.mask_aggregate(y, y, None, "relu", "mul", True, 0.0)
    with pytest.raises(ValueError, match="3 values"):
        op.mask_aggregate_folded(y, y, y, torch.ones(3), torch.ones(4), torch.ones(4), None, *options)


def test_goldens_pass_and_notice_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case fails as soon as either implementation's mask is off by one part in 500, or the skip is missing."""
    (case, expected), *more = [c for c in find_cases(GOLDENS, {"msml"}) if c[0].key in KINDS]
    assert not more
    runner = KINDS[case.key]
    assert run_case(case, expected, runner)[0]
    assert not run_case(dataclasses.replace(case, params={**case.params, "skip": False}), expected, runner)[0]
    with monkeypatch.context() as patch:
        reference = mask_aggregate_reference.combine
        patch.setattr(mask_aggregate_reference, "combine", lambda y, m, *rest: reference(y, 1.002 * m, *rest))
        passed, line = run_case(case, expected, runner)
        assert not passed and line.startswith("reference:")
    alike = face._alike
    monkeypatch.setattr(face, "_alike", lambda y, a, *rest: alike(y, (a[0], 1.002 * a[1]), *rest))
    passed, line = run_case(case, expected, runner)
    assert not passed and line.startswith("fused:")
