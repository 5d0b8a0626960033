"""The optimizer step of a shard, in chunks that need no temporary of the weight's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads.gradients import CHUNK_ROWS, GradientWindow
from facex.ops.keyed import mix64_int
from facex.ops.step import RowStep, update_rows

MOMENTS = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq")}


@dataclass
class OptimizerOptions:
    """How a shard is updated; names as in torch.optim.

    sparse_update: only classes that took part in the window get decay, momentum and a step (Partial FC v1, JHMFR);
        otherwise every class does, with gradient 0 where it was not sampled (v2).
    bias_correction: AdamW's; ``step`` counts steps, ``first`` corrects every step as if it were the first (JHMFR).
    momentum_dtype: what SGD's momentum and AdamW's first moment are stored in; ``bf16`` halves them, rounded up or down at
        random (keyed by `rounding_seed`, the step and the class), so that small changes are not lost.
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
    momentum_dtype: Literal["fp32", "bf16"] = "fp32"
    rounding_seed: int = 0


class ShardOptimizer:
    """SGD or AdamW on one shard [n, D] and its bias [n]; equal to torch.optim on the whole matrix. `first_class` is the
    shard's first class."""

    def __init__(self, weight: Tensor, bias: Tensor | None, options: OptimizerOptions, first_class: int = 0) -> None:
        if options.name not in MOMENTS:
            raise ConfigError(f"head optimizer must be one of {', '.join(MOMENTS)}, not {options.name!r}")
        if options.momentum_dtype not in ("fp32", "bf16"):
            raise ConfigError(f"head momentum_dtype must be fp32 or bf16, not {options.momentum_dtype!r}")
        self.options, self.steps, self.first_class = options, 0, first_class
        self.weight, self.bias = weight, bias
        self.moments: dict[str, Tensor] = {}
        if options.name == "adamw" or options.momentum:
            for moment in MOMENTS[options.name]:
                small = options.momentum_dtype == "bf16" and moment != "exp_avg_sq"
                dtype = torch.bfloat16 if small else weight.dtype
                self.moments[moment] = torch.zeros_like(weight.data, dtype=dtype)
                if bias is not None:
                    self.moments[f"{moment}_bias"] = torch.zeros_like(bias.data)

    def begin(self, lr: float) -> RowStep:
        """Count a step, and give its numbers."""
        self.steps += 1
        o, adamw = self.options, self.options.name == "adamw"
        counted = 1 if o.bias_correction == "first" else self.steps
        return RowStep(
            name=o.name,
            lr=lr,
            weight_decay=o.weight_decay,
            momentum=o.betas[0] if adamw else o.momentum,
            nesterov=o.nesterov,
            beta2=o.betas[1],
            eps=o.eps,
            correction1=1 - o.betas[0] ** counted if adamw else 1.0,
            correction2=1 - o.betas[1] ** counted if adamw else 1.0,
            rounding_key=mix64_int(mix64_int(o.rounding_seed) + self.steps),
            first_class=self.first_class,
        )

    @torch.no_grad()
    def step(self, window: GradientWindow, lr: float, factor: float) -> None:
        """Apply the gradients of `window` times `factor` (clipping over loss scale)."""
        step = self.begin(lr)
        if self.options.sparse_update and window.sampled:
            self._sparse(window, step, factor)
        else:
            for start in range(0, self.weight.shape[0], CHUNK_ROWS):
                stop = min(start + CHUNK_ROWS, self.weight.shape[0])
                moments = [m[start:stop] for m in self.weight_moments()]
                classes = torch.arange(start, stop, device=self.weight.device) + self.first_class
                update_rows(self.weight.data[start:stop], window.chunk(start, stop) * factor, moments, step, classes)
        self.step_bias(window, step, factor)

    def step_bias(self, window: GradientWindow, step: RowStep, factor: float = 1.0) -> None:
        """Apply the bias's gradient, where there is one."""
        if self.bias is None:
            return
        grad = window.bias if window.bias is not None else torch.zeros_like(self.bias.data)
        classes = torch.arange(self.bias.shape[0], device=self.bias.device)
        update_rows(self.bias.data, grad * factor, self._moments("_bias"), step, classes)

    def weight_moments(self) -> list[Tensor]:
        """The weights' moments [n, D], in the order of MOMENTS; none for SGD without momentum."""
        return self._moments("")

    def _sparse(self, window: GradientWindow, step: RowStep, factor: float) -> None:
        index, rows = window.index, window.rows
        if index is None or rows is None:
            return
        for start in range(0, index.numel(), CHUNK_ROWS):
            part = index[start : start + CHUNK_ROWS]
            weight, moments = self.weight.data[part], [m[part] for m in self.weight_moments()]
            update_rows(weight, rows[start : start + CHUNK_ROWS] * factor, moments, step, part + self.first_class)
            self.weight.data[part] = weight
            for whole, changed in zip(self.weight_moments(), moments, strict=True):
                whole[part] = changed

    def _moments(self, suffix: str) -> list[Tensor]:
        names = [f"{moment}{suffix}" for moment in MOMENTS[self.options.name]]
        return [self.moments[name] for name in names if name in self.moments]
