"""The two autograd functions of a class-sharded softmax: target cosines, and the logsumexp over all other classes.

Both take this rank's rows and return this rank's rows. The classes are spread over the ranks: shards are combined with
all-reduces of B numbers, and one backward pass gathers the upstream gradients of all rows, forms the gradient of this
shard's class centres and reduce-scatters that of the embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facex import ops
from facex.heads import smoothing
from facex.heads.base import Margin, Rule
from facex.heads.collectives import Ranks
from facex.heads.foreign import ForeignRows
from facex.heads.fused import FusedStep
from facex.heads.gradients import GradientWindow

Precision = Literal["fp32", "bf16", "fp16"]
Impl = Literal["fused", "reference"]


@dataclass
class MicroStep:
    """What the forward passes of one micro-step leave for their common backward pass. B = rows of all ranks."""

    ranks: Ranks
    weight: Tensor  # [n, D] this shard's class centres
    bias: Tensor | None  # [n]
    window: GradientWindow
    scale: float
    normalize: bool
    precision: Precision
    impl: Impl
    classes: Tensor  # int64 [B, K]: row of `weight`, -1 where the class is on another rank or there is none
    subset: Tensor | None  # int64 [S]: sampled rows of `weight`, ascending
    columns: Tensor  # int64 [B, K]: as `classes`, as positions in `subset`
    margin: Margin
    smoothing: bool = False  # whether `TargetCosine` also returns the sum of all logits
    foreign: ForeignRows | None = None
    fused: FusedStep | None = None  # takes the optimizer's step in the backward pass
    rule: Rule | None = None  # once it is known
    x: Tensor | None = None  # [B, D]
    cos: Tensor | None = None  # [B, K] target cosines of all rows
    own: Tensor | None = None  # [B, K] cosines with `classes`, those on other ranks 0
    centre_sum: Tensor | None = None  # [D] over all ranks, with smoothing
    count: Tensor | None = None  # classes of all ranks that take part, with smoothing
    neg: Tensor | None = None  # [B] logsumexp over the negatives of this shard, if it was formed early
    lse: Tensor | None = None  # [B] logsumexp over the negatives of all shards
    grad_neg: Tensor | None = None  # [b]

    def empty(self) -> bool:
        """Whether no class of this shard takes part."""
        return (self.weight if self.subset is None else self.subset).shape[0] == 0

    def op_options(self) -> dict[str, Any]:
        """Arguments that the op's forward and backward share."""
        assert self.rule is not None
        return {
            "scale": self.scale,
            "excluded": self.columns,
            "rule": self.rule.name,
            "threshold": self.rule.limit(),
            "hard_t": self.rule.hard_t,
            "normalize": self.normalize,
            "bias": self.bias,
            "subset": self.subset,
            "compute_dtype": self.precision,
            "impl": "auto" if self.impl == "fused" else "reference",
        }


class TargetCosine(torch.autograd.Function):
    """Embeddings [b, D] and their lengths [b] -> target cosines [b, K], their biases [b, K], the sum of all logits [b]
    (0 without label smoothing), and a token that `Negatives` takes, so that its backward runs first and both share one
    pass over the class centres here. The lengths matter to foreign rows only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Tensor, anchor: Tensor, step: MicroStep
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ranks = step.ranks
        step.x = ranks.gather(x)
        step.own = cos = shard_cosine(step.x, step.weight, step.classes, step.normalize)
        if step.foreign is not None:
            cos = cos.masked_fill(step.foreign.mask[:, None], 0)
        parts = [cos]
        if step.bias is not None:
            parts.append(shard_bias(step.bias, step.classes))
        travelling = ranks.sum_later(torch.stack(parts))
        if step.rule is not None:  # the rule does not wait for the targets: neither does the big product
            step.neg = shard_negatives(step)
        step.cos, *biases_of_rows = travelling()
        bias = ranks.mine(biases_of_rows[0] if biases_of_rows else torch.zeros_like(step.cos)).clone()
        total = x.new_zeros(x.shape[0])
        if step.smoothing:
            step.centre_sum, biases, step.count = smoothing.centre_sum(step)
            total = step.scale * (x @ step.centre_sum) + biases
        ctx.step = step
        return ranks.mine(step.cos).clone(), bias, total, x.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_cos: Tensor, grad_bias: Tensor, grad_total: Tensor, token: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor, None]:
        step: MicroStep = ctx.step
        ranks, k = step.ranks, grad_cos.shape[1]
        grad_neg = step.grad_neg if step.grad_neg is not None else grad_cos.new_zeros(grad_cos.shape[0])
        step.grad_neg = None
        parts = [grad_cos, grad_neg[:, None], grad_total[:, None]] + ([grad_bias] if step.bias is not None else [])
        # 1/W here: dW is that of the global mean, while this rank's loss is W times its share of it.
        upstream = ranks.gather(torch.cat(parts, 1)) / ranks.size
        grad_cos, grad_norm = upstream[:, :k], None
        if step.foreign is not None and step.lse is not None:
            there, lengths = step.foreign.gradients(upstream[:, k], step.lse)
            grad_cos = torch.where(step.foreign.mask[:, None], there, grad_cos)
            grad_norm = ranks.scatter_sum(lengths) * ranks.size
        dx = ranks.scatter_sum(_shard_backward(step, grad_cos, upstream[:, k], upstream[:, k + 2 :])) * ranks.size
        if step.smoothing:
            assert step.centre_sum is not None
            smoothing.add_gradient(step, upstream[:, k + 1])
            dx = dx + step.scale * grad_total[:, None] * step.centre_sum
        return dx, grad_norm, token.new_zeros(()), None


class Negatives(torch.autograd.Function):
    """token -> logsumexp over every class that is not a label of the row, over all shards [b]."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, step: MicroStep) -> Tensor:
        neg = shard_negatives(step) if step.neg is None else step.neg
        step.neg = None
        step.lse = combine_logsumexp(neg, step.ranks)
        ctx.step = step
        return step.ranks.mine(step.lse).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_neg: Tensor) -> tuple[Tensor, None]:
        ctx.step.grad_neg = grad_neg
        return grad_neg.new_zeros(()), None


def shard_cosine(x: Tensor, weight: Tensor, classes: Tensor, normalize: bool) -> Tensor:
    """Cosines [B, K] with the class centres `classes` (rows of `weight`), 0 where -1; without gradient. `weight` may be
    empty."""
    if weight.shape[0] == 0:
        return x.new_zeros(classes.shape)
    return ops.target_cosine(x, weight, classes, normalize=normalize)


def shard_bias(bias: Tensor, classes: Tensor) -> Tensor:
    """The biases [B, K] of the class centres `classes`, 0 where -1. `bias` may be empty."""
    if not bias.numel():
        return bias.new_zeros(classes.shape)
    return torch.where(classes >= 0, bias[classes.clamp(min=0)], 0.0)


def shard_negatives(step: MicroStep) -> Tensor:
    """logsumexp [B] over the classes of this shard that are no label of the row; -inf where there are none."""
    assert step.x is not None
    if step.empty():
        return step.x.new_full((step.x.shape[0],), -math.inf)
    neg = ops.cosine_logsumexp_forward(step.x, step.weight, **step.op_options())
    if step.foreign is not None:
        assert step.own is not None
        neg = step.foreign.take_part(neg, step.own, step.margin)
    return neg


def combine_logsumexp(neg: Tensor, ranks: Ranks) -> Tensor:
    """logsumexp over ranks of [B] partial values; -inf (an empty shard) is the neutral element. One collective."""
    if ranks.size == 1 or not neg.numel():
        return neg
    return ranks.gather(neg[None]).logsumexp(0)


def _shard_backward(step: MicroStep, grad_cos: Tensor, grad_neg: Tensor, grad_bias: Tensor) -> Tensor:
    """Add dW (and db) of this shard to the window, or step on it; return dX [B, D] as far as this shard makes it."""
    window = step.window
    window.micro_steps += 1
    lse = step.lse if step.lse is not None else torch.zeros_like(grad_neg)
    lse = torch.where(lse == -math.inf, torch.zeros_like(lse), lse)  # no negatives anywhere: nothing to weigh
    gradients = {"lse": lse, "grad_neg": grad_neg.contiguous(), "excluded_grad": grad_cos.contiguous()}
    if step.fused is not None:
        dx, dbias = step.fused.backward(step, gradients)
    else:
        dx, dbias = _window_backward(step, gradients)
    if dbias is not None:
        window.add_bias(dbias, step.subset)
        here = step.classes >= 0
        window.add_bias(torch.where(here, grad_bias, 0.0).flatten(), step.classes.clamp(min=0).flatten())
    return dx


def _window_backward(step: MicroStep, gradients: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """dX [B, D] and dbias of this shard; dW is added to the window."""
    assert step.x is not None
    if step.empty():
        return torch.zeros_like(step.x), None
    into = step.window.buffer() if step.subset is None else None
    options = step.op_options()
    dx, dweight, dbias = ops.cosine_logsumexp_backward(
        step.x, step.weight, accumulate_into=into, **gradients, **options
    )
    if step.subset is not None:
        step.window.add_rows(step.subset, dweight)
    return dx, dbias
