"""A guard against the silent failure of some runs: the loss jumps up, then stays on a plateau for ever."""

from __future__ import annotations

import torch
from torch import Tensor

from facex.errors import TrainingError
from facex.train.config import StagnationConfig


class StagnationGuard:
    """Watches the mean loss of windows of steps; stops the run when it has jumped above the best one and stays there."""

    def __init__(self, config: StagnationConfig) -> None:
        self.config = config
        self.best = float("inf")
        self.above = 0
        self._sum: Tensor | None = None
        self._count = 0

    def note(self, loss: Tensor, step: int, lr: float) -> None:
        """Take one step's loss (equal on every rank). The device is read once a window."""
        if self.config.window <= 0:
            return
        self._sum = loss.detach().clone() if self._sum is None else self._sum + loss.detach()
        self._count += 1
        if self._count < self.config.window:
            return
        mean = float(torch.as_tensor(self._sum)) / self._count
        self._sum, self._count = None, 0
        self.above = self.above + 1 if mean > self.config.spike * self.best else 0
        if self.above >= self.config.patience:
            raise TrainingError(
                f"training has stagnated at step {step}: the mean loss {mean:.4g} has stayed above {self.config.spike:g} times "
                f"the best one ({self.best:.4g}) for {self.above * self.config.window} steps, at learning rate {lr:.4g}. Lower "
                "the rate, lengthen the warm-up or clip gradients"
            )
        self.best = min(self.best, mean)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps (between windows nothing is lost but the open one)."""
        return {
            "best": self.best,
            "above": self.above,
            "sum": 0.0 if self._sum is None else float(self._sum),
            "count": self._count,
        }

    def load(self, state: dict[str, float], device: torch.device) -> None:
        """Take a checkpoint's state."""
        self.best, self.above, self._count = float(state["best"]), int(state["above"]), int(state["count"])
        self._sum = torch.tensor(state["sum"], device=device) if self._count else None
