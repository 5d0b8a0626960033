"""The N-pair loss that JHMFR's code brings beside its margins (Sohn, NIPS 2016, with a margin and mean anchors)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from facex.heads.base import sine


class NPairLoss(nn.Module):
    """Anchors against positives, each of which is a negative of the other anchors: for a holistic face and its masked
    copy.

    The target of a row is spread evenly over the pictures of its person. Embeddings are expected to have unit length.

    Args:
        s: factor on every logit.
        m: margin in radians, see `forward`.
    """

    def __init__(self, s: float = 64.0, m: float = 0.5) -> None:
        super().__init__()
        self.s, self.m = float(s), float(m)

    def forward(
        self, anchor: Tensor, positive: Tensor, labels: Tensor, margin: bool = False, mean_anchors: bool = True
    ) -> Tensor:
        """Scalar loss of anchors [B, D] and positives [B, D] of the persons `labels` int64 [B].

        margin: cos(theta + m) on the diagonal, cos - m sin(m) where the angle would pass pi. mean_anchors: products of
        different persons are those of the means of anchor and positive.
        """
        same = (labels[:, None] == labels[None]).to(anchor.dtype)
        target = same / same.sum(1, keepdim=True)
        logits = anchor @ positive.T
        if mean_anchors:
            mean = (anchor + positive) / 2
            between = mean @ mean.T
            logits = target * (logits - between) + between
        if margin:
            logits = torch.where(
                torch.eye(len(logits), dtype=torch.bool, device=logits.device), self._shifted(logits), logits
            )
        return -(target * (self.s * logits).log_softmax(1)).sum(1).mean()

    def _shifted(self, cos: Tensor) -> Tensor:
        shifted = cos * math.cos(self.m) - sine(cos) * math.sin(self.m)
        return torch.where(cos > math.cos(math.pi - self.m), shifted, cos - self.m * math.sin(self.m))
