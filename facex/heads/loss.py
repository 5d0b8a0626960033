"""Cross entropy of a row from its targets and the logsumexp of everything else: B numbers, plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def rows_loss(
    target: Tensor,
    neg: Tensor,
    valid: Tensor,
    weights: Tensor,
    unlabelled: float | None,
    rest: Tensor | None = None,
    *,
    row_loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """-sum_k w_k log softmax at label k, per row [b].

    `target` [b, K] logits of the labels (anything where not `valid`), `neg` [b] logsumexp of all other logits,
    `weights` [b, K] summing to 1 over a row's labels. `rest` [b]: with label smoothing, what the other classes add to
    sum_j w_j logit_j (the weights then sum to less than 1 over the labels). A row without a label costs 0, or, if `unlabelled` is a number,
    that constant with the gradient of its logsumexp over all classes (published partial FC). `row_loss`: the margin's.
    """
    labelled = valid.any(1)
    if target.shape[1] == 1 and rest is None:
        together = chosen = target[:, 0]
    else:
        safe = torch.where(valid, target, torch.full_like(target, -math.inf))
        safe = torch.where(labelled[:, None], safe, torch.zeros_like(safe))
        together = torch.logsumexp(safe, 1)
        chosen = (torch.where(valid, target, torch.zeros_like(target)) * weights).sum(1)
        chosen = chosen if rest is None else chosen + rest
    loss = row_loss(together, neg) + (together - chosen)
    if unlabelled is None:
        return torch.where(labelled, loss, torch.zeros_like(loss))
    return torch.where(labelled, loss, neg - neg.detach() + unlabelled)
