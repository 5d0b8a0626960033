"""Every margin, full and sampled classifier, one and two ranks, against a brute-force float64 cross entropy."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from tests.golden.distributed import run_ranks
from tests.heads import brute, cases


@functools.cache
def results(world_size: int, rate: float, impl: str) -> list[dict[str, Any]]:
    return run_ranks(world_size, "tests.heads.cases:grid", rate, impl)


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", list(cases.MARGINS))
def test_equals_brute_force(name: str, world_size: int, rate: float, impl: str) -> None:
    ranks = [rank[name] for rank in results(world_size, rate, impl)]
    x, labels, weight = cases.batch()
    classes = torch.cat([rank["classes"] for rank in ranks]) if rate < 1 else None
    assert classes is None or len(classes) < cases.CLASSES
    x, weight = x.requires_grad_(), weight.requires_grad_()
    loss, per_row = brute.loss(name, x, weight, labels, classes)
    loss.backward()
    assert all(rank["loss"] == pytest.approx(float(loss.detach()), rel=1e-6) for rank in ranks)
    close = functools.partial(torch.testing.assert_close, rtol=1e-6, atol=1e-7)
    close(torch.cat([rank["per_row"] for rank in ranks]), per_row.detach())
    close(torch.cat([rank["grad_x"] for rank in ranks]), x.grad)
    close(torch.cat([rank["grad_w"] for rank in ranks]), weight.grad)
