"""The benchmark's own PartialFC gives the official values of sample rate 1: it is a fair peer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden.case import Case, Expected
from tests.golden.discover import find_cases
from tests.golden.distributed import run_ranks
from tests.golden.harness import run_case
from tests.golden.kinds.losses import golden_weight

ROOT = Path(__file__).resolve().parents[2]
CASES = [
    "pfc_w1_arcface_rate1.0",
    "pfc_w1_cosface_rate1.0",
    "pfc_w1_ignored_labels",
    "pfc_w2_arcface_rate1.0",
    "pfc_w2_cosface_rate1.0",
]


def peer() -> ModuleType:
    path = ROOT / "benchmarks" / "_partial_fc.py"
    spec = importlib.util.spec_from_file_location("partial_fc_peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rank_outputs(
    rank: int, world_size: int, params: dict[str, Any], inputs: dict[str, np.ndarray], whole: np.ndarray, m: float
) -> dict[str, Any]:
    """What one rank sees, by the golden's names."""
    module, spec, r = peer(), params["margin"], f"_rank{rank}"
    start, size = module.shard_of(len(whole))
    weight = torch.from_numpy(whole[start : start + size].copy()).requires_grad_()
    features, labels = (
        torch.from_numpy(inputs[name]).chunk(world_size)[rank].clone() for name in ("features", "labels")
    )
    features.requires_grad_()
    margin = "arcface" if spec["m3"] == 0 else "cosface"
    loss = module.partial_fc_loss(features, labels, weight, start, margin=margin, scale=spec["s"], m=m)
    loss.backward()
    assert features.grad is not None
    assert weight.grad is not None
    values = {"loss": loss.detach(), "grad_features": features.grad, "grad_weight": weight.grad}
    counts = {f"num_local{r}": size, f"class_start{r}": start, f"num_sample{r}": int(params["sample_rate"] * size)}
    return counts | {f"{name}{r}": value.numpy() for name, value in values.items()}


def run(case: Case, error: float = 0.0) -> dict[str, Any]:
    spec, world = case.params["margin"], case.params["world_size"]
    m = (spec["m2"] if spec["m3"] == 0 else spec["m3"]) + error
    weight = golden_weight(case)[0].numpy()
    function = "tests.benchmarks.test_partial_fc:rank_outputs"
    ranks = run_ranks(world, function, case.params, case.inputs, weight, m)
    return {key: value for rank in ranks for key, value in rank.items()}


def golden(name: str) -> tuple[Case, Expected]:
    for case, expected in find_cases(ROOT / "tests" / "golden" / "magface", {"magface"}):
        if case.name == name and expected is not None:
            return case, expected
    pytest.fail(f"no golden case {name}")


@pytest.mark.parametrize("name", CASES)
def test_official_values(name: str) -> None:
    case, expected = golden(name)
    passed, line = run_case(case, expected, run)
    assert passed, line
    passed, _ = run_case(case, expected, lambda case: run(case, 0.01))
    assert not passed
