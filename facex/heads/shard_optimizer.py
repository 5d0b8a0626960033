"""The optimizer step of a shard, in chunks that need no temporary of the weight's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads.gradients import CHUNK_ROWS, GradientWindow

MOMENTS = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq")}


@dataclass
class OptimizerOptions:
    """How a shard is updated; names as in torch.optim.

    sparse_update: only classes that took part in the window get decay, momentum and a step (Partial FC v1, JHMFR);
        otherwise every class does, with gradient 0 where it was not sampled (v2).
    bias_correction: AdamW's; ``step`` counts steps, ``first`` corrects every step as if it were the first (JHMFR).
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    sparse_update: bool = False
    bias_correction: Literal["step", "first"] = "step"


class ShardOptimizer:
    """SGD or AdamW on one shard [n, D] and its bias [n]; equal to torch.optim on the whole matrix."""

    def __init__(self, weight: Tensor, bias: Tensor | None, options: OptimizerOptions) -> None:
        if options.name not in MOMENTS:
            raise ConfigError(f"head optimizer must be one of {', '.join(MOMENTS)}, not {options.name!r}")
        self.options, self.steps = options, 0
        self.weight, self.bias = weight, bias
        self.moments: dict[str, Tensor] = {}
        if options.name == "adamw" or options.momentum:
            for moment in MOMENTS[options.name]:
                self.moments[moment] = torch.zeros_like(weight.data)
                if bias is not None:
                    self.moments[f"{moment}_bias"] = torch.zeros_like(bias.data)

    @torch.no_grad()
    def step(self, window: GradientWindow, lr: float, factor: float) -> None:
        """Apply the gradients of `window` times `factor` (clipping over loss scale)."""
        self.steps += 1
        if self.options.sparse_update and window.sampled:
            self._sparse(window, lr, factor)
        else:
            for start in range(0, self.weight.shape[0], CHUNK_ROWS):
                stop = min(start + CHUNK_ROWS, self.weight.shape[0])
                moments = [m[start:stop] for m in self._moments("")]
                self._update(self.weight.data[start:stop], window.chunk(start, stop) * factor, moments, lr)
        if self.bias is not None:
            grad = window.bias if window.bias is not None else torch.zeros_like(self.bias.data)
            self._update(self.bias.data, grad * factor, self._moments("_bias"), lr)

    def _sparse(self, window: GradientWindow, lr: float, factor: float) -> None:
        index, rows = window.index, window.rows
        if index is None or rows is None:
            return
        for start in range(0, index.numel(), CHUNK_ROWS):
            part = index[start : start + CHUNK_ROWS]
            weight, moments = self.weight.data[part], [m[part] for m in self._moments("")]
            self._update(weight, rows[start : start + CHUNK_ROWS] * factor, moments, lr)
            self.weight.data[part] = weight
            for whole, changed in zip(self._moments(""), moments, strict=True):
                whole[part] = changed

    def _moments(self, suffix: str) -> list[Tensor]:
        names = [f"{moment}{suffix}" for moment in MOMENTS[self.options.name]]
        return [self.moments[name] for name in names if name in self.moments]

    def _update(self, weight: Tensor, grad: Tensor, moments: list[Tensor], lr: float) -> None:
        """One step on some rows, in place; `grad` is scratch."""
        if self.options.name == "sgd":
            self._sgd(weight, grad, moments, lr)
        else:
            self._adamw(weight, grad, moments, lr)

    def _sgd(self, weight: Tensor, grad: Tensor, moments: list[Tensor], lr: float) -> None:
        o = self.options
        if o.weight_decay:
            grad.add_(weight, alpha=o.weight_decay)
        if moments:
            buffer = moments[0].mul_(o.momentum).add_(grad)
            grad = grad.add_(buffer, alpha=o.momentum) if o.nesterov else buffer
        weight.add_(grad, alpha=-lr)

    def _adamw(self, weight: Tensor, grad: Tensor, moments: list[Tensor], lr: float) -> None:
        o, (first, second) = self.options, moments
        step = 1 if o.bias_correction == "first" else self.steps
        weight.mul_(1 - lr * o.weight_decay)
        first.lerp_(grad, 1 - o.betas[0])
        second.mul_(o.betas[1]).addcmul_(grad, grad, value=1 - o.betas[1])
        denominator = (second / (1 - o.betas[1] ** step)).sqrt_().add_(o.eps)
        weight.addcdiv_(first, denominator, value=-lr / (1 - o.betas[0] ** step))
