"""What the published training scripts compute from their arguments: rates and lengths, and when a checkpoint is
kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from facex.errors import ConfigError
from facex.train.schedules import GradualCosineSchedule, Warmup
from facex.train.selection import Results, Selection

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


@dataclass(frozen=True)
class BestRule(Selection):
    """Which evaluations of fine-tuning the published script kept; the first set is the one with a bar.

    Kept if the first set is above `always_above`, or if any set is better than ever, or if a share `near_share` of all
    sets is within `near` of its best (the first one not counted) and the first is above `near_above`. Of those that are
    kept, the one with the highest mean accuracy is the best.
    """

    always_above: float = 0.98
    """Accuracy of the first set (0..1) above which an evaluation is kept."""
    near: float = 0.002
    """How far from its best a set may be to count as near."""
    near_share: float = 0.75
    """Share of the sets that must be near."""
    near_above: float = 0.99
    """And what the first must exceed then."""
    best: tuple[float, ...] = ()
    """Best accuracies from before the first evaluation; empty: zeros."""

    def kept(self, rows: Sequence[Sequence[float]]) -> list[bool]:
        """Whether each of a run's evaluations is kept, from their accuracies (always in the same order of sets)."""
        best, kept = list(self.best), []
        for row in rows:
            before = best or [0.0] * len(row)
            better = any(a > b for a, b in zip(row, before, strict=True))
            best = [max(a, b) for a, b in zip(row, before, strict=True)]
            close = sum(a >= b - self.near for a, b in zip(row[1:], best[1:], strict=True))
            enough = close >= self.near_share * len(row) and row[0] > self.near_above
            kept.append(row[0] > self.always_above or better or enough)
        return kept

    def check(self, sets: Sequence[str]) -> None:
        """ConfigError for starting values of other sets."""
        if sets and len(self.best) not in (0, len(sets)):
            raise ConfigError(f"BestRule: {len(self.best)} values of `best` for {len(sets)} sets in evaluation.bins")

    def keep(self, evaluations: Sequence[Results]) -> bool:
        """Whether the last one is kept."""
        return self.kept([[float(one["accuracy"]) for one in results.values()] for results in evaluations])[-1]

    def score(self, evaluations: Sequence[Results]) -> float | None:
        """The mean accuracy of the last one; None if it is not kept."""
        accuracies = [float(one["accuracy"]) for one in evaluations[-1].values()]
        return sum(accuracies) / len(accuracies) if self.keep(evaluations) else None
