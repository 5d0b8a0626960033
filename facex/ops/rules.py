"""What a negative's cosine becomes before it is scaled: the built-in rules, and the form of a user's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rule = str | Callable[[Tensor], Tensor]
"""A built-in rule's name, or a differentiable elementwise function from cosines [B, n] to logits / scale [B, n]."""

RULES = ("plain", "clamp", "zero_above", "hard")
"""plain: c. clamp: c limited to [-threshold, threshold], by default [-1, 1], with no gradient outside. zero_above: 0
where c > threshold (insightface's inter-class filter). hard: c * (t + c) where c > threshold (CurricularFace)."""


def check_rule(rule: Rule, threshold: Tensor | None, hard_t: Tensor | None) -> None:
    """Raise ValueError for an unknown rule, or one whose numbers are missing."""
    if callable(rule):
        return
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; it must be one of {', '.join(RULES)}, or a function of the cosines")
    if rule in ("zero_above", "hard") and threshold is None:
        raise ValueError(f"rule {rule!r} needs threshold")
    if rule == "hard" and hard_t is None:
        raise ValueError("rule 'hard' needs hard_t")


def apply_rule(rule: Rule, cosine: Tensor, threshold: Tensor | None, hard_t: Tensor | None) -> Tensor:
    """Logits / scale of the cosines [B, n]; differentiable. `threshold` is [B], `hard_t` [1]."""
    if callable(rule):
        return rule(cosine)
    if rule == "clamp":
        if threshold is None:
            return cosine.clamp(-1.0, 1.0)
        return torch.clamp(cosine, -threshold[:, None], threshold[:, None])
    if rule == "zero_above":
        assert threshold is not None
        return torch.where(cosine > threshold[:, None], torch.zeros_like(cosine), cosine)
    if rule == "hard":
        assert threshold is not None
        assert hard_t is not None
        return torch.where(cosine > threshold[:, None], cosine * (hard_t + cosine), cosine)
    return cosine
