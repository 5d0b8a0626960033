"""One optimizer step of some class rows, and stochastic rounding of a moment to bfloat16.

The arithmetic that `facex::cosine_logsumexp_step` has in C++ and CUDA, in plain PyTorch: it moves the shards of heads that
keep their gradient, and is what the fused step is tested against. SGD and AdamW are those of torch.optim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from facex.ops.keyed import GOLDEN, MASK32, mix32, mix64, signed64


@dataclass(frozen=True)
class RowStep:
    """Numbers of one step.

    `momentum` is SGD's, or AdamW's first decay; `correction1` and `correction2` are AdamW's 1 - beta ** step.
    `rounding_key` (int64) and a row's class number choose its random bits; row 0 is class `first_class`.
    """

    name: str  # sgd | adamw
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    beta2: float = 0.0
    eps: float = 0.0
    correction1: float = 1.0
    correction2: float = 1.0
    rounding_key: int = 0
    first_class: int = 0

    def arguments(self) -> tuple[str | float | int, ...]:
        """The numbers in the order of the operator's schema."""
        o = self
        numbers = (o.lr, o.weight_decay, o.momentum, o.nesterov, o.beta2, o.eps, o.correction1, o.correction2)
        return (o.name, *numbers, o.rounding_key, o.first_class)


@torch.no_grad()
def update_rows(weight: Tensor, grad: Tensor, moments: Sequence[Tensor], step: RowStep, classes: Tensor) -> None:
    """Move `weight` [n, D] and its moments in place by its gradient `grad` [n, D], which is used up; `classes` int64 [n]
    are the rows' class numbers. The first moment may be bfloat16."""
    first = moments[0].to(weight.dtype) if moments else None  # a copy where it is bfloat16
    if step.name == "adamw":
        assert first is not None
        first.lerp_(grad, 1 - step.momentum)
        square = moments[1].mul_(step.beta2).addcmul_(grad, grad, value=1 - step.beta2)
        weight.mul_(1 - step.lr * step.weight_decay)
        denominator = (square / step.correction2).sqrt_().add_(step.eps)
        weight.addcdiv_(first, denominator, value=-step.lr / step.correction1)
    else:
        if step.weight_decay:
            grad.add_(weight, alpha=step.weight_decay)
        change = grad
        if first is not None:
            first.mul_(step.momentum).add_(grad)
            change = grad.add_(first, alpha=step.momentum) if step.nesterov else first
        weight.add_(change, alpha=-step.lr)
    if first is not None and moments[0].dtype != first.dtype:
        moments[0].copy_(stochastic_bf16(first, step.rounding_key, classes))


def stochastic_bf16(values: Tensor, key: int, classes: Tensor) -> Tensor:
    """`values` [n, D] rounded to bfloat16, up or down at random, so that the mean is right: a small change is not lost.

    The random bits are a pure function of (key, class, column): the same on every device and number of ranks.
    """
    keys = (mix64(classes * signed64(GOLDEN) + key) >> 32) & MASK32
    columns = torch.arange(values.shape[1], device=values.device) * (GOLDEN >> 32)
    bits = mix32((keys[:, None] + columns) & MASK32) & 0xFFFF
    raw = values.float().view(torch.int32).to(torch.int64) & MASK32
    finite = (raw & 0x7F800000) != 0x7F800000
    rounded = ((raw + torch.where(finite, bits, 0)) >> 16) << 16
    rounded = torch.where(torch.isnan(values), raw | 0x400000, rounded)
    signed = torch.where(rounded >= 1 << 31, rounded - (1 << 32), rounded).to(torch.int32)
    return signed.view(torch.float32).to(torch.bfloat16)
