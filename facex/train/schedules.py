"""Learning rates by applied step.

Every schedule is a pure function of the number of steps applied so far, so a resumed run needs no state. Behaviours
of official schedulers that are easily taken for mistakes are named options: `first_step="base"` (arcface_torch runs
the first step of a warm-up at the full rate) and `StepSchedule(started_at=...)` (MagFace forgets the drops before a
resume).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from facex.errors import ConfigError

FirstStep = Literal["warmup", "base"]


@dataclass(frozen=True)
class Warmup:
    """Linear warm-up: at step k < steps the rate is start + (base - start) * k / steps.

    `first_step="base"`: step 0 runs at the base rate, as arcface_torch's PolynomialLRWarmup does. `inclusive`: the last
    step of the warm-up runs at the base rate, not the one after it (numpy.linspace, as the codes after MAE and DINO do).
    """

    steps: int = 0
    start: float = 0.0
    first_step: FirstStep = "warmup"
    inclusive: bool = False

    def rate(self, step: int, base_lr: float) -> float | None:
        """The rate at `step`, None when the warm-up is over."""
        if self.first_step == "base" and step == 0:
            return base_lr
        if step >= self.steps:
            return None
        # written so that a start of 0 gives base * k / steps to the last bit, as the official scheduler does
        return self.start + (base_lr - self.start) * step / max(self.steps - self.inclusive, 1)


class LRSchedule(ABC):
    """A learning rate by applied step: the warm-up first, then `after_warmup`."""

    def __init__(self, base_lr: float, warmup: Warmup | None = None) -> None:
        if not base_lr >= 0:
            raise ConfigError(f"the learning rate {base_lr} must not be negative")
        self.base_lr = base_lr
        self.warmup = warmup or Warmup()

    def lr(self, step: int) -> float:
        """The rate of the update that follows `step` applied ones (0 for the first)."""
        warm = self.warmup.rate(step, self.base_lr)
        return self.after_warmup(step) if warm is None else warm

    @abstractmethod
    def after_warmup(self, step: int) -> float:
        """The rate at a step that lies behind the warm-up."""

    def describe(self) -> str:
        """One line for the start of a run."""
        warm = f", warm-up over {self.warmup.steps} steps from {self.warmup.start:g}" if self.warmup.steps > 0 else ""
        return f"{self._shape()}, base rate {self.base_lr:g}{warm}"

    @abstractmethod
    def _shape(self) -> str: ...


class ConstantSchedule(LRSchedule):
    """The base rate throughout."""

    def after_warmup(self, step: int) -> float:
        return self.base_lr

    def _shape(self) -> str:
        return "constant"


class StepSchedule(LRSchedule):
    """The rate is multiplied by `gamma` when `step` reaches a milestone (a step number; doubles count once).

    `started_at`: MagFace's official trainer keeps no state and starts a resumed run at the full base rate, so the
    milestones before its first step are lost; give that step to reproduce it.
    """

    def __init__(
        self,
        base_lr: float,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup: Warmup | None = None,
        started_at: int = 0,
    ) -> None:
        super().__init__(base_lr, warmup)
        self.milestones = sorted(set(milestones))
        self.gamma = gamma
        self.started_at = started_at

    def after_warmup(self, step: int) -> float:
        rate = self.base_lr
        for milestone in self.milestones:  # multiplied one by one, like the official loop, to the last bit
            if self.started_at <= milestone <= step:
                rate *= self.gamma
        return rate

    def _shape(self) -> str:
        return f"step: x {self.gamma:g} at steps {', '.join(map(str, self.milestones)) or '(none)'}"


class PolynomialSchedule(LRSchedule):
    """base * ((total - k) / (total - warm-up steps))^power, down to `min_lr`, and `min_lr` from `total_steps` on.

    It is the closed form of arcface_torch's recursion r_k = r_{k-1} * ((total - k) / (total - k + 1))^power, which
    starts at the base rate when the warm-up ends (at step 0 when there is none, or a negative number of steps), and
    stops at `total`.
    """

    def __init__(
        self, base_lr: float, total_steps: int, power: float = 1.0, min_lr: float = 0.0, warmup: Warmup | None = None
    ) -> None:
        super().__init__(base_lr, warmup)
        self.total_steps, self.power, self.min_lr = total_steps, power, min_lr

    def lr(self, step: int) -> float:
        # official: behind the end the rate stays what it was, also when the warm-up is longer than the run
        return super().lr(min(step, max(self.total_steps, 0)))

    def after_warmup(self, step: int) -> float:
        start = max(self.warmup.steps, 0)
        if step <= start:
            return self.base_lr
        share = (self.total_steps - step) / (self.total_steps - start)
        return self.min_lr + (self.base_lr - self.min_lr) * share**self.power

    def _shape(self) -> str:
        return f"polynomial: power {self.power:g} to {self.min_lr:g} at step {self.total_steps}"


class CosineSchedule(LRSchedule):
    """Half a cosine from the base rate at the end of the warm-up to `min_lr` at `total_steps`, and `min_lr` from
    there."""

    def __init__(self, base_lr: float, total_steps: int, min_lr: float = 0.0, warmup: Warmup | None = None) -> None:
        super().__init__(base_lr, warmup)
        self.total_steps, self.min_lr = total_steps, min_lr

    def after_warmup(self, step: int) -> float:
        start = max(self.warmup.steps, 0)
        share = min((step - start) / max(self.total_steps - start, 1), 1.0)
        return self.min_lr + 0.5 * (self.base_lr - self.min_lr) * (1 + math.cos(math.pi * share))

    def _shape(self) -> str:
        return f"cosine to {self.min_lr:g} at step {self.total_steps}"


class GradualCosineSchedule(LRSchedule):
    """warmup_scheduler's GradualWarmupScheduler over torch's CosineAnnealingLR, as LAFS and others train: the base rate at the
    two steps after the warm-up, then half a cosine of `cosine_steps` steps to `min_lr`, which rises again if training goes on
    behind it. Without a warm-up the cosine begins at step 0."""

    def __init__(self, base_lr: float, cosine_steps: int, min_lr: float = 0.0, warmup: Warmup | None = None) -> None:
        super().__init__(base_lr, warmup)
        self.cosine_steps, self.min_lr = cosine_steps, min_lr

    def after_warmup(self, step: int) -> float:
        start = max(self.warmup.steps, 0)
        done = max(step - start - 1, 0) if start else step
        share = done / max(self.cosine_steps, 1)
        return self.min_lr + 0.5 * (self.base_lr - self.min_lr) * (1 + math.cos(math.pi * share))

    def _shape(self) -> str:
        return f"cosine of {self.cosine_steps} steps to {self.min_lr:g}, one step late"


class OneCycleSchedule(LRSchedule):
    """Smith's one-cycle policy with cosine pieces: base / `start_div` up to the base rate over the first `rise` share
    of the run, then down to base / `end_div` at its last step. It brings its own warm-up."""

    def __init__(
        self, base_lr: float, total_steps: int, rise: float = 0.3, start_div: float = 25.0, end_div: float = 1e4
    ) -> None:
        super().__init__(base_lr)
        if not 0 < rise < 1:
            raise ConfigError(f"one-cycle: the rising share {rise} must lie between 0 and 1")
        self.total_steps, self.rise, self.start_div, self.end_div = total_steps, rise, start_div, end_div

    def after_warmup(self, step: int) -> float:
        last = max(self.total_steps - 1, 1)
        peak = self.rise * last
        if step <= peak:
            return self._cosine(self.base_lr / self.start_div, self.base_lr, step / peak)
        return self._cosine(self.base_lr, self.base_lr / self.end_div, min((step - peak) / (last - peak), 1.0))

    @staticmethod
    def _cosine(start: float, end: float, share: float) -> float:
        return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))

    def _shape(self) -> str:
        return f"one cycle over {self.total_steps} steps, rising for {self.rise:.0%}"


class ScheduleSettings(Protocol):
    """What `build_schedule` reads of facex.train.config.ScheduleConfig."""

    kind: str
    milestones: list[float]
    gamma: float
    power: float
    min_lr: float
    warmup_epochs: float
    warmup_steps: int | None
    warmup_start_lr: float
    first_step: FirstStep
    warmup_inclusive: bool


def build_schedule(
    cfg: ScheduleSettings, steps_per_epoch: int, epochs: float, base_lr: float, *, started_at: int = 0
) -> LRSchedule:
    """The schedule of a network: `epochs` times `steps_per_epoch` applied steps long, milestones and warm-up given in
    epochs.

    `started_at` is StepSchedule's: the applied step at which an official run would have been restarted.
    """
    total = round(epochs * steps_per_epoch)
    steps = cfg.warmup_steps if cfg.warmup_steps is not None else round(cfg.warmup_epochs * steps_per_epoch)
    warmup = Warmup(steps, cfg.warmup_start_lr, cfg.first_step, cfg.warmup_inclusive)
    if cfg.kind == "constant":
        return ConstantSchedule(base_lr, warmup)
    if cfg.kind == "step":
        milestones = [round(m * steps_per_epoch) for m in cfg.milestones]
        return StepSchedule(base_lr, milestones, cfg.gamma, warmup, started_at)
    if cfg.kind == "polynomial":
        return PolynomialSchedule(base_lr, total, cfg.power, cfg.min_lr, warmup)
    if cfg.kind == "cosine":
        return CosineSchedule(base_lr, total, cfg.min_lr, warmup)
    if cfg.kind == "gradual_cosine":
        return GradualCosineSchedule(base_lr, total - steps, cfg.min_lr, warmup)
    if cfg.kind == "one_cycle":
        return OneCycleSchedule(base_lr, total)
    raise ConfigError(
        f"unknown schedule kind {cfg.kind!r}; there are constant, step, polynomial, cosine, gradual_cosine and one_cycle"
    )
