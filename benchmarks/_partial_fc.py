"""A peer of the margin softmax: PartialFC's published algorithm at sample rate 1, written from its description.

Every rank holds a shard of the classes and all logits of the global batch with it: embeddings are gathered with gradient,
cosines cut to [-1, 1], the margin put on the targets, and the softmax is formed in place over shards with all-reduces of a
maximum and a sum. The loss is the mean of -log max(p, 1e-30). A row whose label is -1 counts as the description has it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def _ranks() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _reduce(values: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
    if _ranks()[1] > 1:
        dist.all_reduce(values, op=op)
    return values


class _Gather(torch.autograd.Function):
    """Rows [b, D] of every rank -> [W b, D]; the gradient of a rank's rows is summed over ranks, times W."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        size = _ranks()[1]
        if size == 1:
            return rows.clone()
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rank, size = _ranks()
        return _reduce(grad.contiguous()).chunk(size)[rank] * size


class _ShardedCrossEntropy(torch.autograd.Function):
    """Logits [B, n] of a shard (used up) and local labels [B, 1] (-1: elsewhere) -> the mean loss of the global batch."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.sub_(_reduce(logits.amax(1, keepdim=True), dist.ReduceOp.MAX)).exp_()
        logits.div_(_reduce(logits.sum(1, keepdim=True)))
        here = labels >= 0
        chosen = _reduce(torch.where(here, logits.gather(1, labels.clamp(min=0)), 0.0))
        ctx.save_for_backward(logits, labels)
        return -chosen.clamp_min(1e-30).log().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probability, labels = ctx.saved_tensors
        rows = (labels >= 0).flatten().nonzero().flatten()
        probability[rows, labels[rows, 0]] -= 1
        return probability.mul_(grad / len(labels)), None


class _Scaled(torch.autograd.Function):
    """Cosines [B, n] -> scale times them with `targets` in place of the labels', in place; the gradient is the scale's alone:
    the margin is applied without gradient."""

    @staticmethod
    def forward(ctx: Any, cosine: Tensor, rows: Tensor, labels: Tensor, targets: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        ctx.mark_dirty(cosine)
        cosine[rows, labels] = targets
        return cosine.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.scale, None, None, None, None


def shard_of(classes: int) -> tuple[int, int]:
    """First class and number of classes of this rank."""
    rank, size = _ranks()
    base, extra = divmod(classes, size)
    return base * rank + min(rank, extra), base + (rank < extra)


def partial_fc_loss(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    start: int,
    *,
    margin: str = "arcface",
    scale: float = 64.0,
    m: float = 0.5,
    operand: torch.dtype = torch.float32,
) -> Tensor:
    """The mean loss of the global batch, for this rank's embeddings [b, D] and labels [b] and its shard `weight` [n, D]
    that begins with class `start`; `operand`: of the product with the class centres."""
    rows = _Gather.apply(embeddings)
    everyone = _Gather.apply(labels.reshape(-1, 1).double()).long()  # exact below 2^53
    inside = (everyone >= start) & (everyone < start + len(weight))
    local = torch.where(inside, everyone - start, -1)
    cosine = F.linear(F.normalize(rows).to(operand), F.normalize(weight).to(operand)).float().clamp(-1, 1)
    hit = inside.flatten().nonzero().flatten()
    chosen = local[hit, 0]
    with torch.no_grad():
        target = cosine[hit, chosen]
        target = (target.arccos() + m).cos() if margin == "arcface" else target - m
    return _ShardedCrossEntropy.apply(_Scaled.apply(cosine, hit, chosen, target, scale), local)
