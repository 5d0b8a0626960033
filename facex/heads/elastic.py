"""ElasticFace: a margin drawn anew for every row, so that classes are not all pressed to the same distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads.base import Margin, Reduce, Rule, require_choice, sine
from facex.ops.keyed import normal


class ElasticFace(Margin):
    """ElasticFace (arXiv 2109.09416): the margin of a row is drawn from N(m, std^2) at every training step.

    The draws are keyed by (seed, step, the row's place in the batch of all ranks): any number of ranks draws alike, and a
    resumed run goes on where it was. In evaluation the margin is m.

    Args:
        s, m: scale and mean margin (paper: m 0.5 in the arc form, 0.35 in the cos form).
        std: standard deviation of the margin.
        form: ``arc``: cos(theta + margin); ``cos``: cos - margin.
        seed: of the draws.
    """

    negatives_follow_targets = False
    drawn: Tensor

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.5,
        std: float = 0.05,
        form: Literal["arc", "cos"] = "arc",
        seed: int = 0,
    ) -> None:
        super().__init__(s)
        require_choice("ElasticFace", "form", form, ("arc", "cos"))
        if std < 0:
            raise ConfigError(f"ElasticFace: std must not be negative, not {std}")
        self.m, self.std, self.form, self.seed = float(m), float(std), form, int(seed)
        self.register_buffer("drawn", torch.zeros(1, dtype=torch.int64))  # steps so far
        self._margin: Tensor | None = None

    def observe(self, statistics: Mapping[str, Tensor], reduce: Reduce) -> None:
        draw = normal(self.seed, self.drawn, statistics["row"])
        self._margin = (self.m + self.std * draw).to(statistics["cos"].dtype)
        self.drawn += 1

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        margin = torch.full_like(cos[:, 0] if cos.dim() > 1 else cos, self.m)
        if self.training and self._margin is not None:
            margin = self._margin
        margin = margin.reshape(-1, *[1] * (cos.dim() - 1))
        if self.form == "cos":
            return self.scale * (cos - margin)
        cos = cos.clamp(-1, 1)
        return self.scale * (cos * margin.cos() - sine(cos) * margin.sin())

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        return Rule("clamp")

    def extra_repr(self) -> str:
        return f"s={self.scale:g}, m={self.m:g}, std={self.std:g}, form={self.form}"
