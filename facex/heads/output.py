"""What a head returns: means over the valid rows of all ranks, and scalars for the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from facex.heads.margin_head import MarginHead


@dataclass
class HeadOutput:
    """What a head says about this rank's rows.

    loss: scalar; averaged over ranks it is the global mean, and so is its gradient when an engine averages gradients.
    loss_id, loss_reg: its parts (cross entropy; the margin's regulariser, weighted).
    per_row: [b] cross entropy, detached, 0 for ignored rows.
    logs: detached scalars of this rank.
    """

    loss: Tensor
    loss_id: Tensor
    loss_reg: Tensor
    per_row: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


def reduce_rows(
    head: MarginHead, per_row: Tensor, cos: Tensor, norm: Tensor, valid: Tensor, labels: Tensor
) -> HeadOutput:
    """Means over the valid rows of all ranks: W * (local sum) / (their number). `per_row`, `norm` [b], `cos`, `valid` [b, K]
    are this rank's, `labels` [W * b, K] everybody's."""
    counted, size = valid.any(1), head.ranks.size
    if head.ignore_unlabelled:
        count = (labels >= 0).any(1).sum().clamp(min=1)
    else:
        counted, count = torch.ones_like(counted), torch.full((), labels.shape[0], device=labels.device)
    loss_id = size * per_row.sum() / count
    extra = head.margin.regulariser(norm)
    loss_reg = torch.zeros_like(loss_id)
    if extra is not None:
        loss_reg = size * torch.where(counted, extra, torch.zeros_like(extra)).sum() / count
        if head.official_regulariser:  # the value once, the gradient W times
            loss_reg = loss_reg + (size - 1) * (loss_reg - loss_reg.detach())
    logs = _logs(head, loss_id, loss_reg, cos, norm, valid)
    return HeadOutput(loss_id + loss_reg, loss_id, loss_reg, per_row.detach(), logs)


@torch.no_grad()
def _logs(
    head: MarginHead, loss_id: Tensor, loss_reg: Tensor, cos: Tensor, norm: Tensor, valid: Tensor
) -> dict[str, Tensor]:
    labelled = torch.where(valid, cos, torch.zeros_like(cos)).sum() / valid.sum().clamp(min=1)
    logs = {"loss_id": loss_id, "loss_reg": loss_reg, "cos_target": labelled, "norm_mean": norm.mean()}
    if norm.numel():
        logs.update(norm_min=norm.min(), norm_max=norm.max())
    logs.update(head.margin.monitor(cos, norm))
    return {name: value.detach() for name, value in logs.items()}
