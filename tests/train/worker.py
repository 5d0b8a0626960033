"""Runs a list of trainings in one process (or in each rank of a launcher's job) and writes down what came out.

    [deepspeed ... --module] python -m tests.train.worker SCENARIOS.json OUTPUT

A scenario: {"name", "method": class in tests.train.tiny, "args": its arguments, "config": nested TrainConfig values,
"samples", "classes", "stops": [steps at which the run is stopped and resumed], "keep": go on from what lies in the folder}. Rank 0 writes OUTPUT/NAME.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from facex.errors import FacexError
from facex.train import distributed, launch, setup
from facex.train.config import (
    ClipConfig,
    DataConfig,
    EvaluationConfig,
    HeadConfig,
    LoggingConfig,
    NetworkConfig,
    OptimizerConfig,
    ScheduleConfig,
    StagnationConfig,
    TrainConfig,
    TrainerConfig,
)
from facex.train.trainer import Trainer
from tests.train import tiny

PARTS = {
    "trainer": TrainerConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "head": HeadConfig,
    "evaluation": EvaluationConfig,
    "data": DataConfig,
}
NESTED = {"clip": ClipConfig, "stagnation": StagnationConfig}


def build_config(scenario: dict[str, Any], output: Path, **changes: Any) -> TrainConfig:
    """A TrainConfig of a scenario; `changes` go to its trainer section."""
    given = {k: dict(v) for k, v in scenario.get("config", {}).items()}
    given.setdefault("data", {}).setdefault("path", "tiny")
    trainer = {
        "output": str(output),
        "global_batch": 16,
        "precision": "fp32",
        "log_every": 1,
        "steps": 6,
        "keep_last": 0,
    }
    trainer |= {**given.pop("trainer", {}), **changes}
    given["trainer"] = {k: NESTED[k](**v) if k in NESTED else v for k, v in trainer.items()}
    networks = {k: NetworkConfig(**v) for k, v in given.pop("networks", {}).items()}
    deepspeed = given.pop("deepspeed", {})
    parts = {name: PARTS[name](**values) for name, values in given.items()}
    parts.setdefault("optimizer", OptimizerConfig(lr=0.05))
    torch.manual_seed(7)
    method = getattr(tiny, scenario["method"])(**scenario.get("args", {}))
    return TrainConfig(
        method=method, networks=networks, logging=LoggingConfig(tensorboard=False), deepspeed=deepspeed, **parts
    )


def run(scenario: dict[str, Any], output: Path) -> dict[str, Any]:
    """Train, stopping and resuming as the scenario says; metrics by step and the final state of things."""
    ranks = launch.start(60)
    folder = output / scenario["name"]
    if ranks.first and not scenario.get("keep"):
        shutil.rmtree(folder, ignore_errors=True)
    distributed.barrier()
    setup.open_data = lambda *_: tiny.TinyFaces(scenario.get("samples", 96), scenario.get("classes", 7))
    report: dict[str, Any] = {}
    try:
        for stop in [*scenario.get("stops", []), None]:
            config = build_config(
                scenario, folder, resume="auto", max_steps=stop or scenario["config"]["trainer"].get("max_steps")
            )
            trainer = Trainer(config, ranks, {})
            try:
                trainer.fit()
                report |= final_state(trainer)
            finally:
                trainer.release()
    except FacexError as error:
        report["error"] = f"{type(error).__name__}: {error}"
    if ranks.first and (folder / "metrics.jsonl").exists():
        report["metrics"] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return report


def final_state(trainer: Trainer) -> dict[str, Any]:
    """Sums that tell two trained states apart, and the counters."""
    return {
        "applied": {n: e.applied for n, e in trainer.networks.engines.items()},
        "skipped": {n: e.skipped for n, e in trainer.networks.engines.items()},
        "scale": trainer.scale.value,
        "clock": trainer.clock.step,
        "weights": {
            n: float(sum(p.detach().double().abs().sum() for p in e.module.parameters()))
            for n, e in trainer.networks.engines.items()
        },
        "stem": float(
            next(iter(trainer.networks.engines.values()))
            .module.state_dict()
            .get("conv.weight", torch.zeros(1))
            .double()
            .abs()
            .sum()
        ),
        "head_steps": 0 if trainer.head is None else trainer.head.module.optimizer.steps,
    }


def main() -> None:
    """Run every scenario of the file."""
    scenarios, output = json.loads(Path(sys.argv[-2]).read_text()), Path(sys.argv[-1])
    for scenario in scenarios:
        report = run(scenario, output)
        if launch.start().first:
            (output / f"{scenario['name']}.json").write_text(json.dumps(report))
    launch.stop()


if __name__ == "__main__":
    main()
