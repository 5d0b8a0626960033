"""cosine_logsumexp in plain PyTorch: it stores B x C logits, works in any floating dtype, and is what the others are
tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit

from facex.ops.options import Options, accumulation_dtype
from facex.ops.rules import apply_rule


def cosines(x: Tensor, weight: Tensor, options: Options) -> Tensor:
    """All cosines (dot products with normalize=False) [B, C or S]; differentiable."""
    dtype = accumulation_dtype(x, weight)
    rows = weight if options.subset is None else weight[options.subset]
    rows = rows.to(dtype)
    if options.normalize:
        rows = unit(rows, dim=1, eps=1e-12)
    return x.to(dtype) @ rows.t()


def excluded_mask(excluded: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor:
    """True where a column is excluded: [B, columns]."""
    mask = torch.zeros((shape[0], shape[1] + 1), dtype=torch.bool, device=device)
    if excluded is not None:
        inside = (excluded >= 0) & (excluded < shape[1])
        mask.scatter_(1, torch.where(inside, excluded, shape[1]), True)
    return mask[:, :-1]


def cosine_logsumexp(x: Tensor, weight: Tensor, options: Options) -> Tensor:
    """neg [B]: logsumexp of scale * g(cos) + bias over the columns that are not excluded; -inf over none;
    differentiable."""
    cosine = cosines(x, weight, options)
    logits = options.scale * apply_rule(options.rule, cosine, options.threshold, options.hard_t)
    if options.bias is not None:
        bias = options.bias if options.subset is None else options.bias[options.subset]
        logits = logits + bias.to(logits.dtype)
    mask = excluded_mask(options.excluded, cosine.shape, cosine.device)
    empty = mask.all(1)
    # A row without columns goes through logsumexp as zeros and is replaced after it: no NaN in its gradient.
    logits = logits.masked_fill(mask & ~empty[:, None], float("-inf"))
    if logits.shape[1] == 0:
        return logits.sum(1) + float("-inf")
    return logits.logsumexp(1).masked_fill(empty, float("-inf"))
