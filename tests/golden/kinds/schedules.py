"""Schedules and sample orders of the official trainers, through the classes that training uses."""

from __future__ import annotations

import numpy as np

from facex.train.samplers import distributed_sampler, magface_slice
from facex.train.schedules import LRSchedule, PolynomialSchedule, StepSchedule, Warmup
from tests.golden.case import Case


def _rates(schedule: LRSchedule, steps: range) -> np.ndarray:
    return np.array([schedule.lr(step) for step in steps], np.float64)


def schedule_polynomial(case: Case) -> dict[str, np.ndarray]:
    """arcface_torch's PolynomialLRWarmup: one schedule per parameter group."""
    outputs = {}
    for number, p in case.params["schedules"].items():
        warmup = Warmup(p["warmup_iters"], first_step="base")
        schedules = [PolynomialSchedule(b, p["total_iters"], p["power"], warmup=warmup) for b in p["base_lrs"]]
        outputs[f"f64_lr{number}"] = np.stack([_rates(s, range(p["steps"])) for s in schedules], 1)
    return outputs


def schedule_step(case: Case) -> dict[str, np.ndarray]:
    """MagFace's drops, one step an epoch; and the run that its trainer makes when started at a later epoch."""
    p = case.params
    epochs, resumed = p["epochs"], p["resume_epoch"]
    whole = StepSchedule(p["lr"], p["drop_epochs"], p["drop_ratio"])
    restarted = StepSchedule(p["lr"], p["drop_epochs"], p["drop_ratio"], started_at=resumed)
    return {
        "f64_lr": _rates(whole, range(epochs)),
        f"f64_lr_resumed_at_{resumed}": _rates(restarted, range(resumed, epochs)),
    }


def sampler(case: Case) -> dict[str, np.ndarray]:
    """arcface_torch's DistributedSampler."""
    p = case.params
    return {
        f"rank{rank}_epoch{epoch}": distributed_sampler(p["n"], rank, p["world_size"], p["seed"], epoch, p["shuffle"])
        for rank in range(p["world_size"])
        for epoch in p["epochs"]
    }


def list_shards(case: Case) -> dict[str, np.ndarray]:
    """MagFace's list slices."""
    p = case.params
    return {f"rank{rank}": magface_slice(p["n"], rank, p["world_size"]) for rank in range(p["world_size"])}


KINDS = {
    "magface/schedule_polynomial": schedule_polynomial,
    "magface/schedule_step": schedule_step,
    "magface/sampler": sampler,
    "magface/list_shards": list_shards,
}
