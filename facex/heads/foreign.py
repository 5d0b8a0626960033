"""JHMFR's foreign rows: a margin on a class that is not the row's.

Its partial FC marks a row whose class is on another rank with -1, and its MagFace and CurricularFace index with that
label: on every rank but the owner's, the last class that takes part gets the margin of the target. Half of all rows at
two GPUs. `MarginHead(foreign_label="official")` reproduces it; nothing else needs this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facex.heads.base import Margin


@dataclass
class ForeignRows:
    """What one micro-step knows of them on this rank; B = rows of all ranks.

    mask: bool [B]; norm: [B] embedding lengths of all rows.
    """

    mask: Tensor
    norm: Tensor
    logit: Tensor | None = None  # [B], with a graph down to the two leaves
    leaves: tuple[Tensor, ...] = ()

    def take_part(self, neg: Tensor, cos: Tensor, margin: Margin) -> Tensor:
        """neg [B] of this rank with the last class put back under the margin; `cos` [B, 1] its cosines."""
        with torch.enable_grad():
            self.leaves = (cos.detach().clone().requires_grad_(), self.norm[:, None].clone().requires_grad_())
            self.logit = margin.target(*self.leaves, torch.ones_like(cos))[:, 0]
        return torch.where(self.mask, torch.logaddexp(neg, self.logit.detach()), neg)

    def gradients(self, grad_neg: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to the last class's cosine [B, 1] and to the lengths [B], from that of the logsumexp
        over all classes [B], which is `lse`."""
        assert self.logit is not None
        upstream = torch.where(self.mask, grad_neg * (self.logit.detach() - lse).exp(), torch.zeros_like(lse))
        found = torch.autograd.grad(self.logit, self.leaves, upstream, allow_unused=True)
        cos, norm = (torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, self.leaves, strict=True))
        return torch.where(self.mask[:, None], cos, torch.zeros_like(cos)), norm[:, 0]


def last_class(classes: Tensor, columns: Tensor, weight: Tensor, subset: Tensor | None) -> tuple[Tensor, Tensor]:
    """`classes` and `columns` [B, 1] with the last class that takes part in place of every -1."""
    last = (weight if subset is None else subset).shape[0] - 1
    if last < 0:
        return classes, columns
    row = torch.full_like(classes, last) if subset is None else subset[-1].expand_as(classes)
    return torch.where(classes < 0, row, classes), torch.where(columns < 0, last, columns)
