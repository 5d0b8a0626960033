"""Margins with a fixed strength: softmax, ArcFace, CosFace and insightface's combination."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads.base import Margin, Rule, require_choice, sine, straight_through

MarginGrad = Literal["straight_through", "exact"]
PastPi = Literal["none", "sine", "shift", "clip"]


def negatives_rule(interclass_filter: float, clamp_eps: float = 0.0) -> Rule:
    """insightface's inter-class filter when it is on, else a clamp to +-(1 - clamp_eps)."""
    if interclass_filter > 0:
        return Rule("zero_above", threshold=interclass_filter)
    return Rule("clamp", bound=1 - clamp_eps)


class Softmax(Margin):
    """No margin: logit = s * cos, or s * <x, w> + b for a head with `normalize=False` (then s = 1 is usual)."""

    negatives_follow_targets = False

    def __init__(self, s: float = 1.0) -> None:
        super().__init__(s)

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        return Rule("plain")


class ArcFace(Margin):
    """Additive angular margin: s * cos(theta + m).

    Args:
        s: scale.
        m: margin in radians.
        margin_grad: ``straight_through`` as insightface (the backward pass sees s * cos), or ``exact``.
        past_pi: what is done once theta + m passes pi. ``none``: cos(theta + m) all the same (insightface);
            ``sine``: cos - m sin(pi - m) (JHMFR, CurricularFace's fallback); ``shift``: cos - `shift` (FaceX-Zoo, whose
            `margin_am` it is); ``clip``: the angle is cut to [clamp_eps, pi - clamp_eps] (AdaFace's repository).
        easy_margin: the margin applies only where cos > 0.
        shift: see `past_pi`.
        clamp_eps: every cosine is first cut to +-(1 - clamp_eps).
        interclass_filter: negatives above this cosine get logit 0 (0: off).
        official_nan: keep the infinite slope of sqrt(1 - cos^2) at |cos| = 1; for tests only.
    """

    negatives_follow_targets = False

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.5,
        margin_grad: MarginGrad = "straight_through",
        past_pi: PastPi = "none",
        easy_margin: bool = False,
        shift: float = 0.0,
        clamp_eps: float = 0.0,
        interclass_filter: float = 0.0,
        official_nan: bool = False,
    ) -> None:
        super().__init__(s)
        require_choice("ArcFace", "margin_grad", margin_grad, ("straight_through", "exact"))
        require_choice("ArcFace", "past_pi", past_pi, ("none", "sine", "shift", "clip"))
        self.m, self.margin_grad, self.past_pi, self.easy_margin = float(m), margin_grad, past_pi, easy_margin
        self.shift, self.clamp_eps, self.interclass_filter = float(shift), float(clamp_eps), float(interclass_filter)
        self.official_nan = official_nan

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        bound = 1 - self.clamp_eps
        cos = cos.clamp(-bound, bound)
        if self.margin_grad == "straight_through":
            with torch.no_grad():
                value = self._shifted(cos)
            return self.scale * straight_through(value, cos)
        return self.scale * self._shifted(cos)

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        return negatives_rule(self.interclass_filter, self.clamp_eps)

    def _shifted(self, cos: Tensor) -> Tensor:
        if self.past_pi == "clip":
            angle = (_safe_acos(cos) + self.m).clamp(self.clamp_eps, math.pi - self.clamp_eps)
            return angle.cos()
        shifted = cos * math.cos(self.m) - sine(cos, self.official_nan) * math.sin(self.m)
        if self.easy_margin:
            return torch.where(cos > 0, shifted, cos)
        if self.past_pi == "none":
            return shifted
        fallback = self.shift if self.past_pi == "shift" else self.m * math.sin(math.pi - self.m)
        return torch.where(cos > math.cos(math.pi - self.m), shifted, cos - fallback)

    def extra_repr(self) -> str:
        return f"s={self.scale:g}, m={self.m:g}, margin_grad={self.margin_grad}, past_pi={self.past_pi}"


class CosFace(Margin):
    """Additive cosine margin: s * (cos - m). Also known as AM-Softmax (FaceX-Zoo: s 32, m 0.35).

    Args:
        s: scale.
        m: margin.
        clamp_eps: every cosine is first cut to +-(1 - clamp_eps).
        interclass_filter: negatives above this cosine get logit 0 (0: off).
        soft: the margin is m times the label's share (LAFS: s * (cos - m * y) with a soft label y).
    """

    negatives_follow_targets = False

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.4,
        clamp_eps: float = 0.0,
        interclass_filter: float = 0.0,
        soft: bool = False,
    ) -> None:
        super().__init__(s)
        self.m, self.clamp_eps, self.interclass_filter = float(m), float(clamp_eps), float(interclass_filter)
        self.soft = soft

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        bound = 1 - self.clamp_eps
        margin = self.m * weight if self.soft and weight is not None else self.m
        return self.scale * (cos.clamp(-bound, bound) - margin)

    def offset(self, share: Tensor) -> Tensor | float:
        return -self.scale * self.m * share if self.soft else 0.0

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        return negatives_rule(self.interclass_filter, self.clamp_eps)

    def extra_repr(self) -> str:
        return f"s={self.scale:g}, m={self.m:g}"


class Combined(Margin):
    """s * (cos(m1 * theta + m2) - m3), as insightface's CombinedMarginLoss names it.

    Args:
        s, m1, m2, m3: scale and margins.
        interclass_filter: negatives above this cosine get logit 0 (0: off).
        combined: ``strict`` computes what insightface does and refuses margins that insightface would silently ignore
            (m1, m2 beside m3 > 0); ``official`` ignores them as it does; ``true`` is the formula above.
        margin_grad, past_pi: as in ArcFace; used where the arc branch is (JHMFR: ``exact`` and ``sine``). ``true``
            knows ``none`` and ``clip``-free angles only.
    """

    negatives_follow_targets = False

    def __init__(
        self,
        s: float = 64.0,
        m1: float = 1.0,
        m2: float = 0.5,
        m3: float = 0.0,
        interclass_filter: float = 0.0,
        combined: Literal["strict", "official", "true"] = "strict",
        margin_grad: MarginGrad = "straight_through",
        past_pi: PastPi = "none",
    ) -> None:
        super().__init__(s)
        require_choice("Combined", "combined", combined, ("strict", "official", "true"))
        require_choice("Combined", "margin_grad", margin_grad, ("straight_through", "exact"))
        self.m1, self.m2, self.m3 = float(m1), float(m2), float(m3)
        self.combined, self.margin_grad, self.interclass_filter = combined, margin_grad, float(interclass_filter)
        self._inner: Margin | None = None if combined == "true" else self._official(past_pi)

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        if self._inner is not None:
            return self._inner.target(cos, norm, weight)
        cos = cos.clamp(-1, 1)
        if self.margin_grad == "straight_through":
            with torch.no_grad():
                value = (self.m1 * cos.acos() + self.m2).cos() - self.m3
            return self.scale * straight_through(value, cos)
        return self.scale * ((self.m1 * _safe_acos(cos) + self.m2).cos() - self.m3)

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        return negatives_rule(self.interclass_filter)

    def _official(self, past_pi: PastPi) -> Margin:
        if self.m1 == 1 and self.m3 == 0:
            return ArcFace(self.scale, self.m2, self.margin_grad, past_pi)
        if self.m3 > 0:
            if self.combined == "strict" and (self.m1 != 1 or self.m2 != 0):
                raise ConfigError(
                    f"Combined: insightface ignores m1={self.m1:g} and m2={self.m2:g} beside m3={self.m3:g}; "
                    'set combined to "true" for the full formula or "official" to ignore them too'
                )
            return CosFace(self.scale, self.m3)
        raise ConfigError(
            f"Combined: insightface has no loss for m1={self.m1:g}, m2={self.m2:g}, m3={self.m3:g}; "
            'set combined to "true" for cos(m1*theta + m2) - m3'
        )

    def extra_repr(self) -> str:
        return f"s={self.scale:g}, m1={self.m1:g}, m2={self.m2:g}, m3={self.m3:g}, combined={self.combined}"


def _safe_acos(cos: Tensor) -> Tensor:
    """arccos with a finite slope: cut at the last float before +-1."""
    edge = 1 - torch.finfo(cos.dtype).eps
    return cos.clamp(-edge, edge).acos()
