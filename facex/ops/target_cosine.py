"""Cosines of each sample with a few chosen classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit

from facex.ops.options import accumulation_dtype


def target_cosine(x: Tensor, weight: Tensor, columns: Tensor, normalize: bool = True) -> Tensor:
    """<x_i, w_j / |w_j|> for j = columns[i, k]: [B, K]; 0 (and no gradient) where columns is -1.

    A gather of B*K rows of `weight` [C, D]; nothing of size B x C. `x` [B, D] is expected normalised by the caller.
    With normalize=False the plain dot product. Differentiable (plain PyTorch; the gradient of `weight` is dense).
    """
    dtype = accumulation_dtype(x, weight)
    present = columns >= 0
    rows = weight[columns.clamp(min=0)].to(dtype)
    if normalize:
        rows = unit(rows, dim=-1)
    dots = (x.to(dtype)[:, None, :] * rows).sum(-1)
    return torch.where(present, dots, torch.zeros_like(dots))
