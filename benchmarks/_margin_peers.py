"""What benchmarks/margin_softmax.py times: each function prepares one implementation and returns a step of it.

`x` [B, D] raw embeddings, `weight` [C, D] class centres, `labels` int64 [B]; a step is forward and backward of the mean loss
(ArcFace, s 64, m 0.5), with the optimizer's step where the name says so.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _partial_fc import partial_fc_loss
from torch import Tensor
from torch.nn import functional as F

SCALE, MARGIN = 64.0, 0.5
GEMM_CHUNK = 1024
OPERANDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
Step = Callable[[], Any]


def arcface_target(cosine: Tensor) -> Tensor:
    """cos(theta + m): the target's logit / scale."""
    sine = (1.0 - cosine.square()).clamp_min(0.0).sqrt()
    return cosine * math.cos(MARGIN) - sine * math.sin(MARGIN)


def _forward(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """The loss as MarginHead computes it on one rank, down to what the op's backward pass takes."""
    from facex.ops import cosine_logsumexp_forward, target_cosine

    columns, options = labels[:, None], {"scale": SCALE, "compute_dtype": dtype}
    unit = F.normalize(x.detach().requires_grad_())
    with torch.no_grad():
        cosine = target_cosine(unit, weight, columns)[:, 0]
        neg = cosine_logsumexp_forward(unit, weight, excluded=columns, **options)
    cosine.requires_grad_()
    neg.requires_grad_()
    F.softplus(neg - SCALE * arcface_target(cosine)).mean().backward()
    assert cosine.grad is not None
    return unit, (neg.detach(), neg.grad, columns, cosine.grad[:, None]), options


def ours(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Step:
    """The operator, forward and backward."""
    from facex.ops import cosine_logsumexp_backward

    def step() -> Tensor:
        unit, upstream, options = _forward(x, weight, labels, dtype)
        dx, dweight, _ = cosine_logsumexp_backward(unit.detach(), weight, *upstream, **options)
        unit.backward(dx)
        return dweight

    return step


def ours_step(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Step:
    """The same with SGD's step inside the backward pass, momentum in bf16."""
    from facex.ops import RowStep, cosine_logsumexp_step

    moments, numbers = [torch.zeros_like(weight, dtype=torch.bfloat16).fill_(0.0)], RowStep("sgd", **SGD)

    def step() -> None:
        unit, upstream, options = _forward(x, weight, labels, dtype)
        dx, _ = cosine_logsumexp_step(unit.detach(), weight, *upstream, moments=moments, step=numbers, **options)
        unit.backward(dx)

    return step


def gradient_then_sgd(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Step:
    """The operator's gradient, then torch.optim.SGD with its momentum in fp32."""
    backward, optimizer = ours(x, weight, labels, dtype), torch.optim.SGD([weight], **SGD)
    optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight).fill_(0.0)

    def step() -> None:
        weight.grad = backward()
        optimizer.step()
        weight.grad = None

    return step


def eager(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Step:
    """The usual way: all logits, a margin on the target's, cross_entropy."""

    def step() -> Tensor:
        embedding, leaf = x.detach().requires_grad_(), weight.detach().requires_grad_()
        operand = OPERANDS[dtype]
        cosine = F.linear(F.normalize(embedding).to(operand), F.normalize(leaf).to(operand)).float()
        target = cosine.gather(1, labels[:, None])
        logits = cosine.scatter(1, labels[:, None], arcface_target(target)) * SCALE
        F.cross_entropy(logits, labels).backward()
        return leaf.grad  # type: ignore[return-value]

    return step


def partial_fc(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Step:
    """PartialFC's published algorithm at sample rate 1."""

    def step() -> Tensor:
        embedding, leaf = x.detach().requires_grad_(), weight.detach().requires_grad_()
        partial_fc_loss(embedding, labels, leaf, 0, scale=SCALE, m=MARGIN, operand=OPERANDS[dtype]).backward()
        return leaf.grad  # type: ignore[return-value]

    return step


def cut_cross_entropy(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Step:
    """cut-cross-entropy on normalised bf16 inputs, no margin: its best case."""
    from cut_cross_entropy import linear_cross_entropy

    def step() -> Tensor:
        embedding, leaf = x.detach().requires_grad_(), weight.detach().requires_grad_()
        unit, rows = (F.normalize(embedding) * SCALE).to(OPERANDS[dtype]), F.normalize(leaf).to(OPERANDS[dtype])
        linear_cross_entropy(unit, rows, labels).backward()
        return leaf.grad  # type: ignore[return-value]

    return step


def liger(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Step:
    """Liger's fused linear cross entropy on normalised inputs, no margin: its best case."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()

    def step() -> Tensor:
        embedding, leaf = x.detach().requires_grad_(), weight.detach().requires_grad_()
        unit, rows = (F.normalize(embedding) * SCALE).to(OPERANDS[dtype]), F.normalize(leaf).to(OPERANDS[dtype])
        loss(rows, unit, labels).backward()
        return leaf.grad  # type: ignore[return-value]

    return step


def products(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Step:
    """The four products of forward and backward with recomputation, chunk by chunk, nothing else."""
    operand = OPERANDS[dtype]
    a = x.to(operand)
    chunk = GEMM_CHUNK if x.device.type == "cpu" else 8192
    rows = weight[: 16 * chunk].to(operand).split(chunk)  # a few chunks again and again: their memory does not count
    tile = torch.empty(x.shape[0], chunk, dtype=operand, device=x.device)
    gradient = torch.empty(chunk, x.shape[1], dtype=operand, device=x.device)

    def step() -> Tensor:
        for i in range(weight.shape[0] // chunk):
            w = rows[i % len(rows)]
            if w.shape[0] < chunk:
                continue
            torch.mm(a, w.t(), out=tile)
            torch.mm(a, w.t(), out=tile)
            torch.mm(tile, w)
            torch.mm(tile.t(), a, out=gradient)
        return gradient

    return step


@dataclass(frozen=True)
class Peer:
    """How an implementation is called in a row, what builds it, and bytes for each number of the weights that are not
    counted as its extra memory: the gradient that it returns, a momentum that it is given."""

    title: str
    build: Callable[[Tensor, Tensor, Tensor, str], Step]
    kept: int = 4
    package: str | None = None  # an import that it needs, on CUDA alone

    def missing(self, device: str) -> str | None:
        """Why it cannot run here, or None."""
        if self.package is None:
            return None
        if device != "cuda":
            return "needs CUDA"
        return None if importlib.util.find_spec(self.package) else f"{self.package} is not installed"


PEERS = {
    "facex": Peer("facex", ours),
    "facex_step": Peer("facex with SGD inside", ours_step, kept=2),
    "sgd": Peer("facex's gradient, then torch.optim.SGD", gradient_then_sgd, kept=4),
    "eager": Peer("F.linear + margin + F.cross_entropy", eager),
    "partial_fc": Peer("PartialFC's published algorithm, rate 1", partial_fc),
    "cce": Peer("cut-cross-entropy without margin", cut_cross_entropy, package="cut_cross_entropy"),
    "liger": Peer("liger-kernel without margin", liger, package="liger_kernel"),
    "gemm": Peer("chunked library GEMMs", products),
}
