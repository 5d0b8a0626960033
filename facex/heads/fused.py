"""The optimizer step of a shard inside the backward pass: the gradient of the class centres is never stored.

What cannot be known before the gradient is complete cannot be done here: a window of several backward passes, dropping the
window at an overflow, clipping by a norm. `MarginHead(fused_step=True)` refuses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from facex import ops
from facex.errors import ConfigError
from facex.heads.gradients import GradientWindow
from facex.heads.shard_optimizer import ShardOptimizer
from facex.ops.step import RowStep

if TYPE_CHECKING:
    from facex.heads.sharded_softmax import MicroStep


class FusedStep:
    """Takes a shard's step when the backward pass comes by. `lr` is the rate of the next one; `taken` its numbers once it
    has been taken, until `finish`."""

    def __init__(self) -> None:
        self.optimizer: ShardOptimizer | None = None
        self.lr = 0.0
        self.taken: RowStep | None = None

    def backward(self, step: MicroStep, gradients: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """dX [B, D] of this shard and dbias, the class centres moved; `gradients`: lse, grad_neg, excluded_grad."""
        if self.optimizer is None:
            raise ConfigError("fused_step: the backward pass is the optimizer's step; call build_optimizer before it")
        if self.taken is not None:
            raise ConfigError(
                "fused_step: a second backward pass before step(); gradients cannot accumulate over a window, because the "
                "first pass has moved the class centres already. Use one micro-batch a step, or fused_step=False"
            )
        self.taken = self.optimizer.begin(self.lr)
        assert step.x is not None
        if step.empty():
            return torch.zeros_like(step.x), None
        options = {name: value for name, value in step.op_options().items() if name != "subset"}
        moments = self.optimizer.weight_moments()
        return ops.cosine_logsumexp_step(step.x, step.weight, moments=moments, step=self.taken, **gradients, **options)

    def finish(self, window: GradientWindow, lr: float, factor: float) -> None:
        """Close the window: the bias's step, and the check that the step taken is the one asked for."""
        assert self.optimizer is not None
        if factor != 1:
            raise ConfigError(
                f"fused_step: the class centres have been moved by the whole gradient, and a factor {factor:g} (loss scale or "
                "clipping) comes too late; use fused_step=False"
            )
        if self.taken is None:
            return
        if self.taken.lr != lr:
            raise ConfigError(
                f"fused_step: the step was taken with learning rate {self.taken.lr:g}, not {lr:g}: call prepare_step(lr) "
                "before the backward pass"
            )
        self.optimizer.step_bias(window, self.taken)
        self.taken = None

    def refuse(self, what: str) -> None:
        """ConfigError: `what` needs the gradient."""
        raise ConfigError(f"fused_step keeps no gradient of the class centres: {what} needs fused_step=False")
