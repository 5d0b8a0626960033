"""A threshold between targets and negatives, one for all classes, as UniFace learns it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from facex.heads.base import Margin, Reduce, Rule, masked_mean


class UniFace(Margin):
    """A unified threshold (UniFace, ICCV 2023): every target's logit has to lie above b and the negatives' below it.

    loss = log(1 + e^(b - s (cos - m))) + log(1 + sum_j e^(s cos_j - b)). A softmax compares a row's target with its own
    negatives only; here one number separates them in all rows, as verification with a fixed threshold does. The paper sums
    log(1 + e^(s cos_j - b)) over the negatives; one logarithm of their sum is the form that needs no logits.

    Args:
        s, m: scale and margin.
        threshold: where b begins, as a cosine.
        rate: learning rate of b (gradient descent on the mean loss, one step behind); 0: b stays.
    """

    negatives_follow_targets = False
    b: Tensor

    def __init__(self, s: float = 64.0, m: float = 0.4, threshold: float = 0.4, rate: float = 0.1) -> None:
        super().__init__(s)
        self.m, self.rate = float(m), float(rate)
        self.register_buffer("b", torch.full((1,), self.scale * threshold))

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.scale * (cos - self.m)

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        return Rule("clamp")

    def row_loss(self, target: Tensor, neg: Tensor) -> Tensor:
        b = self.b.clone()  # the graph keeps the value of this step
        return F.softplus(b - target, threshold=50) + F.softplus(neg - b, threshold=50)

    def observe_loss(self, statistics: Mapping[str, Tensor], reduce: Reduce) -> None:
        slope = (self.b - statistics["target"]).sigmoid() - (statistics["neg"] - self.b).sigmoid()[:, None]
        mean, _ = masked_mean(slope, statistics["valid"], reduce)
        self.b -= self.rate * mean

    def monitor(self, cos: Tensor, norm: Tensor) -> dict[str, Tensor]:
        return {"threshold": self.b[0] / self.scale}

    def extra_repr(self) -> str:
        return f"s={self.scale:g}, m={self.m:g}, rate={self.rate:g}"
