"""`head.fused_step` in a run: the numbers of the unfused run, exact resume, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.ports import job_environment

ROOT = Path(__file__).resolve().parents[2]
Report = dict[str, Any]
FUSED = {"fused_step": True, "precision": "fp32"}
SCHEDULE = {"kind": "cosine", "warmup_steps": 2}


def scenario(name: str, head: Report, stops: tuple[int, ...] = (), **trainer: Any) -> Report:
    config = {"trainer": {"global_batch": 16, "steps": 5, **trainer}, "head": head, "schedule": SCHEDULE}
    return {"name": name, "method": "TinyRecogniser", "stops": list(stops), "config": config}


SCENARIOS = [
    scenario("window", {"precision": "fp32"}),
    scenario("fused", FUSED),
    scenario("bf16", {**FUSED, "momentum_dtype": "bf16"}),
    scenario("bf16_stopped", {**FUSED, "momentum_dtype": "bf16"}, stops=(2,)),
    scenario("accumulating", FUSED, micro_batch=8),
    scenario("fp16", FUSED, precision="fp16"),
    scenario("joint", FUSED, clip={"norm": 1.0, "scope": "joint"}),
    scenario("clipped", {**FUSED, "clip": 1.0}),
    scenario("network_clip", FUSED, clip={"norm": 1.0}),
]
REFUSALS = {"accumulating": "2 micro-batches", "fp16": "overflow", "joint": "joint clipping", "clipped": "head.clip"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process runs every scenario."""
    path = tmp_path_factory.mktemp("fused")
    (path / "scenarios.json").write_text(json.dumps(SCENARIOS))
    command = [sys.executable, "-m", "tests.train.worker", str(path / "scenarios.json"), str(path)]
    run = subprocess.run(command, capture_output=True, text=True, env=job_environment(), cwd=ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    return path


def report(folder: Path, name: str) -> Report:
    return json.loads((folder / f"{name}.json").read_text())


def head_state(folder: Path, name: str) -> dict[str, torch.Tensor]:
    (file,) = sorted((folder / name / "checkpoints").glob("step_*5/head/*.safetensors"))
    return load_file(file)


def test_the_same_run_with_and_without(folder: Path) -> None:
    window, fused = (report(folder, name) for name in ("window", "fused"))
    losses = [[line["backbone/loss"] for line in r["metrics"] if "backbone/loss" in line] for r in (window, fused)]
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    ours, theirs = head_state(folder, "fused"), head_state(folder, "window")
    for name in ("weight", "momentum_buffer"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)
    assert fused["head_steps"] == 5


def test_a_stopped_run_goes_on_bit_for_bit(folder: Path) -> None:
    whole, stopped = (head_state(folder, name) for name in ("bf16", "bf16_stopped"))
    assert whole["momentum_buffer"].dtype == torch.bfloat16
    for name, value in whole.items():
        assert torch.equal(stopped[name], value), name


@pytest.mark.parametrize("name", list(REFUSALS))
def test_what_comes_too_late_is_refused(folder: Path, name: str) -> None:
    error = report(folder, name)["error"]
    assert error.startswith("ConfigError: head.fused_step steps inside the backward pass")
    assert REFUSALS[name] in error


def test_clipping_of_the_network_alone_is_not(folder: Path) -> None:
    assert "error" not in report(folder, "network_clip")
