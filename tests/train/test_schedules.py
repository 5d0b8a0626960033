"""Schedules against step-by-step recursions written out here, and against torch's own schedulers."""

import math

import pytest
import torch

from facex.errors import ConfigError
from facex.train.config import ScheduleConfig
from facex.train.schedules import (
    CosineSchedule,
    OneCycleSchedule,
    PolynomialSchedule,
    StepSchedule,
    Warmup,
    build_schedule,
)


def arcface_recursion(base: float, warm: int, total: int, power: float, steps: int) -> list[float]:
    """PolynomialLRWarmup as its definition reads: each rate from the one before."""
    rates = [base]
    for k in range(1, steps):
        if k > total:
            rates.append(rates[-1])
        elif k <= warm:
            rates.append(base * k / warm)
        else:
            rates.append(rates[-1] * ((total - k) / (total - k + 1)) ** power)
    return rates


@pytest.mark.parametrize("warm", [-1, 0, 1, 5, 20, 25])
@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_polynomial_is_the_official_recursion(warm, power):
    schedule = PolynomialSchedule(0.3, 20, power, warmup=Warmup(warm, first_step="base"))
    expected = arcface_recursion(0.3, warm, 20, power, 30)
    assert [schedule.lr(k) for k in range(30)] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_first_step_differs_in_the_first_step_only():
    quirk = PolynomialSchedule(0.4, 25, 2, warmup=Warmup(5, first_step="base"))
    plain = PolynomialSchedule(0.4, 25, 2, warmup=Warmup(5))
    assert quirk.lr(0) == 0.4
    assert plain.lr(0) == 0.0
    assert [quirk.lr(k) for k in range(1, 30)] == [plain.lr(k) for k in range(1, 30)]
    assert PolynomialSchedule(0.4, 25, warmup=Warmup(5, start=0.1)).lr(1) == pytest.approx(0.16)


def test_step_like_torch_and_the_lost_drops():
    schedule = StepSchedule(0.1, [4, 10, 4], 0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    peer = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 10], 0.1)
    for k in range(15):
        assert schedule.lr(k) == pytest.approx(peer.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        peer.step()
    restarted = StepSchedule(0.1, [4, 10], 0.1, started_at=6)
    assert [restarted.lr(k) for k in (6, 9, 10)] == pytest.approx([0.1, 0.1, 0.01])
    assert StepSchedule(0.1, [4], started_at=4).lr(4) == pytest.approx(0.01)


def test_cosine_and_one_cycle():
    cosine = CosineSchedule(1.0, 110, 0.2, Warmup(10))
    assert cosine.lr(5) == pytest.approx(0.5)
    assert cosine.lr(10) == 1.0
    assert cosine.lr(60) == pytest.approx(0.6)
    assert cosine.lr(110) == cosine.lr(500) == pytest.approx(0.2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    peer = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40)
    ours = OneCycleSchedule(0.1, 40)
    for k in range(40):  # torch rises to step 0.3 * total - 1, ours to 0.3 * (total - 1): nearly the same
        assert ours.lr(k) == pytest.approx(peer.get_last_lr()[0], abs=0.009)
        if k < 39:
            optimizer.step()
            peer.step()
    assert ours.lr(39) == pytest.approx(0.1 / 1e4)
    assert max(ours.lr(k) for k in range(40)) == pytest.approx(0.1, rel=0.01)


def test_built_from_a_config():
    cfg = ScheduleConfig(kind="step", milestones=[10, 18, 22], gamma=0.1)
    schedule = build_schedule(cfg, 100, 25, 0.1)
    assert schedule.lr(999) == 0.1
    assert schedule.lr(1000) == pytest.approx(0.01)
    assert schedule.lr(2200) == pytest.approx(1e-4)
    assert build_schedule(cfg, 100, 25, 0.1, started_at=1200).lr(1300) == 0.1
    cfg = ScheduleConfig(kind="polynomial", warmup_epochs=2, power=1, first_step="base")
    expected = arcface_recursion(0.2, 20, 200, 1, 210)
    assert [build_schedule(cfg, 10, 20, 0.2).lr(k) for k in range(210)] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    cfg = ScheduleConfig(kind="cosine", warmup_steps=3, warmup_epochs=9, min_lr=0.01)
    assert build_schedule(cfg, 10, 2, 0.2).lr(3) == 0.2
    assert "warm-up over 3 steps" in build_schedule(cfg, 10, 2, 0.2).describe()
    assert build_schedule(ScheduleConfig(kind="constant"), 10, 2, 0.2).lr(1000) == 0.2
    cfg.kind = "linear"
    with pytest.raises(ConfigError, match=r"unknown schedule kind 'linear'.*one_cycle"):
        build_schedule(cfg, 10, 2, 0.2)
    with pytest.raises(ConfigError, match="negative"):
        build_schedule(ScheduleConfig(kind="constant"), 10, 2, -0.2)
    assert math.isfinite(build_schedule(ScheduleConfig(kind="polynomial"), 1, 0, 0.1).lr(0))
