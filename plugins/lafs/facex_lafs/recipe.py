"""What the published training scripts compute from their arguments: rates and lengths, and when a checkpoint is
kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from facex.train.schedules import GradualCosineSchedule, Warmup

MIN_LR = 1e-6


def scaled_lr(lr: float, batch_per_rank: int, world_size: int, accumulation: int) -> float:
    """The rate that fine-tuning runs at: accumulation / 480 * lr * sqrt(world * batch / 336) * 336."""
    return accumulation / 480 * lr * math.sqrt(world_size * batch_per_rank / 336) * 336


def finetune_schedule(
    images: int, batch_per_rank: int, world_size: int, accumulation: int, epochs: int, warmup_epochs: int, lr: float
) -> tuple[GradualCosineSchedule, int]:
    """(the rate by optimizer step, number of optimizer steps) of a published fine-tuning."""
    batch = batch_per_rank * world_size
    warmup = warmup_epochs * images // (accumulation * batch)
    cosine = (epochs - warmup_epochs) * images // (accumulation * batch)
    base = scaled_lr(lr, batch_per_rank, world_size, accumulation)
    return GradualCosineSchedule(base, cosine, MIN_LR, Warmup(warmup)), epochs * (images // batch) // accumulation


@dataclass
class BestRule:
    """Which evaluations of fine-tuning are worth a checkpoint; the first benchmark is the one with a bar.

    Kept if the first benchmark is above `always_above`, or if any benchmark is better than ever, or if a share
    `near_share` of all benchmarks is within `near` of its best (the first one not counted) and the first is above
    `near_above`.
    """

    always_above: float = 0.98
    near: float = 0.002
    near_share: float = 0.75
    near_above: float = 0.99
    best: list[float] = field(default_factory=list)

    def keep(self, accuracies: Sequence[float]) -> bool:
        """Whether to keep these accuracies' checkpoint (0..1, always in the same order); the best ones are noted."""
        best = self.best or [0.0] * len(accuracies)
        better = any(a > b for a, b in zip(accuracies, best, strict=True))
        self.best = [max(a, b) for a, b in zip(accuracies, best, strict=True)]
        close = sum(a >= b - self.near for a, b in zip(accuracies[1:], self.best[1:], strict=True))
        enough = close >= self.near_share * len(accuracies) and accuracies[0] > self.near_above
        return accuracies[0] > self.always_above or better or enough
