"""MagFace: a margin that grows with the length of the embedding, and a regulariser that rewards long ones."""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads.base import Margin, Rule, require_choice, sine

logger = logging.getLogger("facex")


class MagFace(Margin):
    """MagFace (arXiv 2103.06627): margin m(a) on the target, plus lambda_g * g(a), a = clamp(|x|, l_a, u_a).

    m(a) rises linearly from l_margin at l_a to u_margin at u_a; g(a) = a / u_a^2 + 1 / a.

    Args:
        l_a, u_a: bounds of the magnitude.
        l_margin, u_margin: margins at the bounds (radians in the arc form, cosine in the cos form).
        lambda_g: weight of the regulariser.
        s: scale.
        form: ``arc``: cos(theta + m); ``cos``: cos - m without clamp (Mag-CosFace, `--arc 0`).
        easy_margin: the arc margin applies only where cos > 0 (what the official trainers use).
        hard_fallback: with easy_margin off, where cos <= cos(pi - m): ``sine``: cos - m sin(pi - m) (official);
            ``shift``: cos - `shift` (FaceX-Zoo and JHMFR, whose `margin_am` it is).
        shift: see `hard_fallback`.
        official_nan: keep the official NaN gradients at |cos| = 1 (of targets and of all other columns); for tests.
    """

    negatives_follow_targets = False

    def __init__(
        self,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_margin: float = 0.45,
        u_margin: float = 0.8,
        lambda_g: float = 35.0,
        s: float = 64.0,
        form: Literal["arc", "cos"] = "arc",
        easy_margin: bool = True,
        hard_fallback: Literal["sine", "shift"] = "sine",
        shift: float = 0.0,
        official_nan: bool = False,
    ) -> None:
        super().__init__(s)
        require_choice("MagFace", "form", form, ("arc", "cos"))
        require_choice("MagFace", "hard_fallback", hard_fallback, ("sine", "shift"))
        if not 0 < l_a < u_a:
            raise ConfigError(f"MagFace: needs 0 < l_a < u_a, not l_a={l_a}, u_a={u_a}")
        self.l_a, self.u_a, self.l_margin, self.u_margin = float(l_a), float(u_a), float(l_margin), float(u_margin)
        self.lambda_g, self.form, self.easy_margin = float(lambda_g), form, easy_margin
        self.hard_fallback, self.shift, self.official_nan = hard_fallback, float(shift), official_nan
        if self.lambda_g < self.lambda_min:
            logger.warning(
                "MagFace: lambda_g=%g is below %.4f, the bound above which the magnitude has an optimum inside "
                "(l_a, u_a) for s=%g, l_a=%g, u_a=%g, margins %g..%g",
                *(self.lambda_g, self.lambda_min, self.scale, self.l_a, self.u_a, self.l_margin, self.u_margin),
            )

    @property
    def slope(self) -> float:
        """Margin per unit of magnitude."""
        return (self.u_margin - self.l_margin) / (self.u_a - self.l_a)

    @property
    def lambda_min(self) -> float:
        """The paper's feasibility bound for lambda_g, with the real scale."""
        u, low = self.u_a**2, self.l_a**2
        return self.scale * self.slope * u * low / (u - low)

    def magnitude(self, norm: Tensor) -> Tensor:
        """a: the length cut to [l_a, u_a]."""
        return norm.clamp(self.l_a, self.u_a)

    def margin(self, norm: Tensor) -> Tensor:
        """m(a) for embeddings of these lengths."""
        return self.slope * (self.magnitude(norm) - self.l_a) + self.l_margin

    def g(self, norm: Tensor) -> Tensor:
        """The regulariser without its weight: a / u_a^2 + 1 / a."""
        a = self.magnitude(norm)
        return a / self.u_a**2 + 1 / a

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        m = self.margin(norm)
        if self.form == "cos":
            return self.scale * (cos - m)
        cos = cos.clamp(-1, 1)
        shifted = cos * m.cos() - sine(cos, self.official_nan) * m.sin()
        if self.easy_margin:
            return self.scale * torch.where(cos > 0, shifted, cos)
        threshold = (math.pi - m).cos()
        fallback = cos - (self.shift if self.hard_fallback == "shift" else (math.pi - m).sin() * m)
        return self.scale * torch.where(cos > threshold, shifted, fallback)

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        if self.form == "cos":
            return Rule("plain")
        return Rule(_nan_at_one) if self.official_nan else Rule("clamp")

    def regulariser(self, norm: Tensor) -> Tensor | None:
        return self.lambda_g * self.g(norm)

    def monitor(self, cos: Tensor, norm: Tensor) -> dict[str, Tensor]:
        return {"loss_g": self.g(norm).mean(), "margin_mean": self.margin(norm).mean()}

    def extra_repr(self) -> str:
        return (
            f"s={self.scale:g}, a={self.l_a:g}..{self.u_a:g}, m={self.l_margin:g}..{self.u_margin:g}, "
            f"lambda_g={self.lambda_g:g}, form={self.form}, easy_margin={self.easy_margin}"
        )


def _nan_at_one(cos: Tensor) -> Tensor:
    """The identity on clamped cosines that still sends the gradient through sqrt(1 - cos^2), as the official code does
    for every column: NaN (infinity times zero) at |cos| = 1."""
    cos = cos.clamp(-1, 1)
    return cos + 0 * (1 - cos * cos).sqrt()
