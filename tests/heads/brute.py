"""Brute-force float64 losses: all logits, written from the papers' formulas, sharing nothing with facex.heads."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Callable[[Tensor, Tensor, Tensor], Tensor]  # cos [B, C], norm [B], onehot bool [B, C] -> logits [B, C]


def _st(value: Tensor, cos: Tensor) -> Tensor:
    return cos + (value - cos).detach()


def arcface_st(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    return 64 * torch.where(hot, _st((cos.acos() + 0.5).cos(), cos), cos)


def arcface_exact(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    fallback = cos - 0.5 * math.sin(math.pi - 0.5)
    shifted = torch.where(cos > math.cos(math.pi - 0.5), (cos.acos() + 0.5).cos(), fallback)
    return 64 * torch.where(hot, shifted, cos)


def cosface(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    return 30 * (cos - 0.35 * hot.double())


def cosface_filter(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    return 64 * torch.where(hot, cos - 0.4, torch.where(cos > 0.2, 0 * cos.detach(), cos))


def combined_true(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    return 64 * torch.where(hot, (1.1 * cos.acos() + 0.3).cos() - 0.2, cos)


def magface(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    m = (0.8 - 0.45) / 100 * (norm.clamp(10, 110) - 10) + 0.45
    return 64 * torch.where(hot & (cos > 0), (cos.acos() + m[:, None]).cos(), cos)


def mag_cosface(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    m = (0.8 - 0.35) / 100 * (norm.clamp(10, 110) - 10) + 0.35
    return 64 * (cos - hot.double() * m[:, None])


def curricular(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    target = cos[hot].detach()
    t = 0.01 * target.mean()
    shifted = torch.full_like(norm, math.inf)
    shifted[hot.any(1)] = (target.acos() + 0.5).cos()
    hard = cos > shifted[:, None]
    fallback = cos - 0.5 * math.sin(math.pi - 0.5)
    own = torch.where(cos > math.cos(math.pi - 0.5), (cos.acos() + 0.5).cos(), fallback)
    return 64 * torch.where(hot, own, torch.where(hard, cos * (t + cos), cos))


def _adaface_k(norm: Tensor) -> Tensor:
    n = norm.detach().clamp(1e-3, 100)
    mean, std = 0.01 * n.mean() + 0.99 * 20, 0.01 * n.std() + 0.99 * 100
    return (0.333 * (n - mean) / (std + 1e-3)).clamp(-1, 1)[:, None]


def adaface(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    k, cos = _adaface_k(norm), cos.clamp(-0.999, 0.999)
    angle = (cos.acos() - 0.4 * k * hot.double()).clamp(1e-3, math.pi - 1e-3)
    return 64 * (angle.cos() - hot.double() * (0.4 + 0.4 * k))


def adaface_cvlface(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    k = _adaface_k(norm)
    return 64 * torch.where(hot, _st((cos.acos() - 0.4 * k).cos() - (0.4 + 0.4 * k), cos), cos)


def normface(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    return 16 * cos


def elastic(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    return 64 * torch.where(hot, (cos.acos() + 0.5).cos(), cos)  # without deviation: the mean margin


def uniface(cos: Tensor, norm: Tensor, hot: Tensor) -> Tensor:
    return 16 * (cos - 0.3 * hot.double())


def regulariser(name: str, norm: Tensor) -> Tensor:
    weight = {"magface": 35.0, "mag_cosface": 150.0}.get(name, 0.0)
    a = norm.clamp(10, 110)
    return weight * (a / 110**2 + 1 / a)


LOGITS: dict[str, Logits] = {
    "arcface_st": arcface_st,
    "arcface_exact": arcface_exact,
    "cosface": cosface,
    "cosface_filter": cosface_filter,
    "combined_true": combined_true,
    "magface": magface,
    "mag_cosface": mag_cosface,
    "curricular": curricular,
    "adaface": adaface,
    "adaface_cvlface": adaface_cvlface,
    "normface": normface,
    "elastic": elastic,
    "uniface": uniface,
}


def loss(name: str, x: Tensor, weight: Tensor, labels: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(mean loss with regulariser, cross entropy per row) against `classes` (default: all); -1 rows are ignored."""
    classes = torch.arange(len(weight)) if classes is None else classes
    hot = labels[:, None] == classes[None]
    cos = F.normalize(x) @ F.normalize(weight[classes]).T
    logits = LOGITS[name](cos, x.norm(dim=1), hot)
    valid = labels >= 0
    per_row = torch.zeros(len(x), dtype=x.dtype)
    if name == "uniface":
        e = logits[valid].exp()
        target, others = (e * hot[valid]).sum(1), (e * ~hot[valid]).sum(1)
        per_row[valid] = (1 + math.exp(3.2) / target).log() + (1 + others * math.exp(-3.2)).log()  # b = 16 * 0.2
    else:
        per_row[valid] = F.cross_entropy(logits[valid], hot[valid].int().argmax(1), reduction="none")
    total = per_row + torch.where(valid, regulariser(name, x.norm(dim=1)), 0.0)
    return total.sum() / valid.sum(), per_row
