"""Labels of a row: one class, or several with weights (mixup), or none (-1)."""

from __future__ import annotations

import torch
from torch import Tensor

from facex.errors import DataError


def normalise_labels(labels: Tensor, weights: Tensor | None, num_classes: int) -> tuple[Tensor, Tensor]:
    """[b], [b, 1] or [b, K] labels -> (int64 [b, K], float [b, K]).

    Equal labels of a row are merged, a label with weight 0 is dropped (-1), and the weights of a row sum to 1 over its
    labels. Labels beyond the classes raise DataError on the CPU, and an asynchronous assertion elsewhere.
    """
    labels = labels.long()
    labels = labels.reshape(labels.shape[0], -1).clone()
    check_range(labels, num_classes)
    if labels.shape[1] == 1:
        return labels, (labels >= 0).float()
    if weights is None:
        raise DataError(f"labels of shape {tuple(labels.shape)} need label_weights of the same shape")
    weights = weights if weights.dtype == torch.float64 else weights.float()
    weights = torch.where(labels >= 0, weights, 0.0)
    for k in range(1, labels.shape[1]):
        for j in range(k):
            same = (labels[:, k] == labels[:, j]) & (labels[:, k] >= 0)
            weights[:, j] += torch.where(same, weights[:, k], 0.0)
            weights[:, k].masked_fill_(same, 0.0)
            labels[:, k].masked_fill_(same, -1)
    labels.masked_fill_(weights <= 0, -1)
    return labels, weights / weights.sum(1, keepdim=True).clamp(min=1e-12)


def check_range(labels: Tensor, num_classes: int) -> None:
    """DataError (on the CPU; an asynchronous assertion elsewhere) for a label beyond the classes."""
    good = (labels < num_classes).all()
    if labels.device.type == "cpu":
        if not bool(good):
            raise DataError(
                f"label {int(labels.max())} does not exist: the head has {num_classes} classes (0 .. {num_classes - 1})"
            )
    else:
        torch._assert_async(good)
