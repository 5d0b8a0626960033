"""Margins with running values: CurricularFace's t and AdaFace's statistics of the embedding length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from facex.heads.angular import negatives_rule
from facex.heads.base import Margin, Reduce, Rule, masked_mean, require_choice, sine, straight_through

Statistics = Literal["global", "rank"]


class CurricularFace(Margin):
    """CurricularFace (arXiv 2004.00288): ArcFace's margin; negatives harder than the shifted target are re-weighted.

    A negative with cos_j > cos(theta_y + m) becomes cos_j * (t + cos_j); t is a running mean of the target cosines.

    Args:
        s, m: scale and margin.
        momentum: share of the present batch in t.
        statistics: ``global``: t is equal on every rank; ``rank``: each rank has its own, as the official codes do.
        official_nan: keep the NaN gradient at a target with |cos| = 1; for tests only.
    """

    t: Tensor

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.5,
        momentum: float = 0.01,
        statistics: Statistics = "global",
        official_nan: bool = False,
    ) -> None:
        super().__init__(s)
        require_choice("CurricularFace", "statistics", statistics, ("global", "rank"))
        self.m, self.momentum, self.statistics, self.official_nan = float(m), float(momentum), statistics, official_nan
        self.register_buffer("t", torch.zeros(1))

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        cos = cos.clamp(-1, 1)
        shifted = cos * math.cos(self.m) - sine(cos, self.official_nan) * math.sin(self.m)
        fallback = cos - self.m * math.sin(math.pi - self.m)
        return self.scale * torch.where(cos > math.cos(math.pi - self.m), shifted, fallback)

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        """The threshold is cos(theta + m) of a row's first label; a row without one has no hard negatives."""
        first = cos[:, 0].clamp(-1, 1)
        threshold = first * math.cos(self.m) - sine(first, official_nan=True) * math.sin(self.m)
        threshold = torch.where(valid[:, 0], threshold, torch.full_like(threshold, math.inf))
        return Rule("hard", threshold=threshold, hard_t=self.t)

    def observe(self, statistics: Mapping[str, Tensor], reduce: Reduce) -> None:
        if self.statistics == "rank":
            reduce = _own
        mean, count = masked_mean(statistics["cos"].clamp(-1, 1)[:, 0], statistics["valid"][:, 0], reduce)
        updated = self.momentum * mean + (1 - self.momentum) * self.t.double()
        self.t.copy_(torch.where(count > 0, updated, self.t.double()))

    def monitor(self, cos: Tensor, norm: Tensor) -> dict[str, Tensor]:
        return {"curricular_t": self.t[0].clone()}

    def extra_repr(self) -> str:
        return f"s={self.scale:g}, m={self.m:g}, momentum={self.momentum:g}, statistics={self.statistics}"


class AdaFace(Margin):
    """AdaFace (arXiv 2204.00964): the margin follows the embedding's length, taken as image quality.

    k = clip(h * (n - mean) / (std + eps), -1, 1) with n = clip(|x|, *norm_clip) and running mean and std over all rows;
    target = cos(theta - m k) - (m + m k). No gradient flows through the length.

    Args:
        s, m, h: scale, margin, concentration.
        t_alpha: share of the present batch in the running mean and std (updated before use).
        form: ``head``: as AdaFace's head.py, cosines cut to +-(1 - eps) and the angle to [eps, pi - eps], exact
            gradient; ``cvlface``: the form for partial FC, no cuts, straight-through gradient.
        eps: see `form`; also added to the running std.
        statistics: ``global``: over the rows of all ranks (CVLface); ``rank``: each rank its own (AdaFace's code).
        interclass_filter: negatives above this cosine get logit 0 (0: off).
        norm_clip: bounds of the length.
        official_nan: a batch of one poisons the running std, as in the official code; for tests only.
    """

    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.4,
        h: float = 0.333,
        t_alpha: float = 0.01,
        form: Literal["head", "cvlface"] = "head",
        eps: float = 1e-3,
        statistics: Statistics = "global",
        interclass_filter: float = 0.0,
        norm_clip: tuple[float, float] = (1e-3, 100.0),
        official_nan: bool = False,
    ) -> None:
        super().__init__(s)
        require_choice("AdaFace", "form", form, ("head", "cvlface"))
        require_choice("AdaFace", "statistics", statistics, ("global", "rank"))
        self.m, self.h, self.t_alpha, self.form, self.eps = float(m), float(h), float(t_alpha), form, float(eps)
        self.statistics, self.interclass_filter, self.official_nan = statistics, float(interclass_filter), official_nan
        self.negatives_follow_targets = official_nan  # its rule then has the running std in it
        self.norm_clip = (float(norm_clip[0]), float(norm_clip[1]))
        self.register_buffer("batch_mean", torch.full((1,), 20.0))
        self.register_buffer("batch_std", torch.full((1,), 100.0))

    def strength(self, norm: Tensor) -> Tensor:
        """k in [-1, 1] for embeddings of these lengths, without gradient."""
        n = norm.detach().clamp(*self.norm_clip)
        return (self.h * (n - self.batch_mean) / (self.batch_std + self.eps)).clamp(-1, 1)

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        k = self.strength(norm)
        if self.form == "cvlface":
            cos = cos.clamp(-1, 1)
            with torch.no_grad():
                value = (cos.acos() - self.m * k).cos() - (self.m + self.m * k)
            return self.scale * straight_through(value, cos)
        return self.scale * (self._angle_cut(cos, -self.m * k) - (self.m + self.m * k))

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        if self.official_nan:
            # 0 * k is NaN in every column once the std is: the official code multiplies a one-hot by k.
            return Rule(lambda c: self._angle_cut(c, 0 * self.batch_std))
        return negatives_rule(self.interclass_filter, self.eps if self.form == "head" else 0.0)

    def observe(self, statistics: Mapping[str, Tensor], reduce: Reduce) -> None:
        n = statistics["norm"].double().clamp(*self.norm_clip)
        if self.statistics == "rank":
            reduce = _own
        mean, count = masked_mean(n, torch.ones_like(n, dtype=torch.bool), reduce)
        square = reduce((n - mean).square().sum())
        std = (square / (count - 1)).sqrt()  # NaN for a batch of one
        updated = self.t_alpha * std + (1 - self.t_alpha) * self.batch_std.double()
        if not self.official_nan:
            updated = torch.where(count > 1, updated, self.batch_std.double())
        self.batch_mean.copy_(self.t_alpha * mean + (1 - self.t_alpha) * self.batch_mean.double())
        self.batch_std.copy_(updated)

    def monitor(self, cos: Tensor, norm: Tensor) -> dict[str, Tensor]:
        return {"adaface_k": self.strength(norm).mean(), "adaface_mean": self.batch_mean[0].clone()}

    def _angle_cut(self, cos: Tensor, shift: Tensor) -> Tensor:
        bound = 1 - self.eps
        return (cos.clamp(-bound, bound).acos() + shift).clamp(self.eps, math.pi - self.eps).cos()

    def extra_repr(self) -> str:
        return f"s={self.scale:g}, m={self.m:g}, h={self.h:g}, t_alpha={self.t_alpha:g}, form={self.form}"


def _own(values: Tensor) -> Tensor:
    """A reduction over this rank alone."""
    return values
