"""cosine_logsumexp chunk by chunk in Python: any rule, any device, the memory of the fused operator, less speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facex.ops.options import COMPUTE_DTYPES, Options, accumulation_dtype
from facex.ops.reference import excluded_mask
from facex.ops.registration import spread_rows
from facex.ops.rules import apply_rule

TILE = 1 << 20
"""Most numbers in a tile [B, chunk] and in a chunk's rows [chunk, D]."""
NORM_FLOOR = 1e-12


class _Chunk:
    """The columns [begin, end): their rows (normalised, and rounded to the compute dtype), lengths, and cosines with
    x."""

    def __init__(self, x: Tensor, weight: Tensor, options: Options, begin: int, end: int, dtype: torch.dtype) -> None:
        rows = weight[begin:end] if options.subset is None else weight[options.subset[begin:end]]
        self.begin, self.end, self.size = begin, end, end - begin
        self.norm = rows.to(dtype).norm(dim=1) if options.normalize else None
        self.rows = rows.to(dtype)
        if self.norm is not None:
            self.rows = self.rows / self.norm.clamp_min(NORM_FLOOR)[:, None]
        rounded = COMPUTE_DTYPES[options.compute_dtype]
        if rounded is not None and dtype == torch.float32:
            self.rows = self.rows.to(rounded).to(dtype)
        self.cosine = x @ self.rows.t()
        self.bias = None
        if options.bias is not None:
            chosen = options.bias[begin:end] if options.subset is None else options.bias[options.subset[begin:end]]
            self.bias = chosen.to(dtype)

    def excluded(self, options: Options) -> Tensor | None:
        """excluded [B, K] counted from this chunk's first column."""
        if options.excluded is None:
            return None
        return torch.where(options.excluded < 0, -1, options.excluded - self.begin)

    def logits(self, values: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        """scale * values + bias with -inf at excluded columns, and their mask."""
        mask = excluded_mask(self.excluded(options), values.shape, values.device)
        logits = values * options.scale if self.bias is None else values * options.scale + self.bias
        return logits.masked_fill(mask, float("-inf")), mask


def _chunks(x: Tensor, weight: Tensor, options: Options, dtype: torch.dtype) -> Iterator[_Chunk]:
    columns = weight.shape[0] if options.subset is None else options.subset.shape[0]
    size = max(64, TILE // max(1, *x.shape))
    for begin in range(0, columns, size):
        yield _Chunk(x, weight, options, begin, min(columns, begin + size), dtype)


def _operand(x: Tensor, options: Options, dtype: torch.dtype) -> Tensor:
    rounded = COMPUTE_DTYPES[options.compute_dtype]
    return x.to(rounded).to(dtype) if rounded is not None and dtype == torch.float32 else x.to(dtype)


@torch.no_grad()
def forward(x: Tensor, weight: Tensor, options: Options) -> Tensor:
    """neg [B], without gradient."""
    dtype = accumulation_dtype(x, weight)
    x = _operand(x, options, dtype)
    neg = x.new_full((x.shape[0],), float("-inf"))
    for chunk in _chunks(x, weight, options, dtype):
        values = apply_rule(options.rule, chunk.cosine, options.threshold, options.hard_t)
        neg = torch.logaddexp(neg, chunk.logits(values, options)[0].logsumexp(1))
    return neg


@torch.no_grad()
def backward(
    x: Tensor,
    weight: Tensor,
    lse: Tensor,
    grad_neg: Tensor,
    excluded_grad: Tensor | None,
    options: Options,
    dweight: Tensor | None = None,
    take: Callable[[int, int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(dx [B, D], dweight [C or S, D], dbias [C or S] or None) as `cosine_logsumexp_backward` defines them. With `take`,
    the gradient of the rows begin .. end - 1 is handed to it, chunk by chunk, and dweight is None."""
    dtype = accumulation_dtype(x, weight)
    x = _operand(x, options, dtype)
    columns = weight.shape[0] if options.subset is None else options.subset.shape[0]
    dx = torch.zeros_like(x)
    if dweight is None and take is None:
        dweight = x.new_zeros((columns, x.shape[1]))
    dbias = None if options.bias is None else x.new_zeros(columns)
    lse = torch.where(lse == float("-inf"), float("inf"), lse)[:, None]
    for chunk in _chunks(x, weight, options, dtype):
        cosine_grad, logit_grad = _cosine_grad(chunk, lse, grad_neg, excluded_grad, options)
        dx += cosine_grad @ chunk.rows
        rows_grad = cosine_grad.t() @ x
        if chunk.norm is not None:
            along = (cosine_grad * chunk.cosine).sum(0) * (chunk.norm >= NORM_FLOOR)
            rows_grad = (rows_grad - along[:, None] * chunk.rows) / chunk.norm.clamp_min(NORM_FLOOR)[:, None]
        if take is not None:
            take(chunk.begin, chunk.end, rows_grad)
        elif dweight is not None:
            dweight[chunk.begin : chunk.end] += rows_grad
        if dbias is not None:
            dbias[chunk.begin : chunk.end] = logit_grad.sum(0)
    return dx, dweight, dbias


def _cosine_grad(
    chunk: _Chunk, lse: Tensor, grad_neg: Tensor, excluded_grad: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """The loss's gradient with respect to the chunk's cosines, and to its logits: [B, n] each."""
    with torch.enable_grad():
        cosine = chunk.cosine.detach().requires_grad_()
        values = apply_rule(options.rule, cosine, options.threshold, options.hard_t)
    logits, mask = chunk.logits(values.detach(), options)
    logit_grad = (logits - lse).exp() * grad_neg.to(lse.dtype)[:, None]
    if values.requires_grad:
        (cosine_grad,) = torch.autograd.grad(values, cosine, logit_grad * options.scale)
    else:  # a constant rule
        cosine_grad = torch.zeros_like(cosine)
    if excluded_grad is not None:
        columns = chunk.excluded(options)
        assert columns is not None
        inside = (columns >= 0) & (columns < chunk.size)
        folded = cosine_grad.new_zeros((cosine_grad.shape[0], chunk.size + 1))
        folded.scatter_add_(1, torch.where(inside, columns, chunk.size), excluded_grad.to(folded.dtype))
        cosine_grad = cosine_grad.masked_fill(mask, 0.0) + folded[:, :-1]
    return cosine_grad, logit_grad


class GenericCosineLogsumexp(torch.autograd.Function):
    """Autograd over `forward` and `backward` above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
        """neg [B]; `bias` is options.bias, named apart because it takes a gradient."""
        neg = forward(x, weight, options)
        ctx.save_for_backward(x, weight, neg)
        ctx.options = options
        return neg

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_neg: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight, neg = ctx.saved_tensors
        subset, bias = ctx.options.subset, ctx.options.bias
        dx, dweight, dbias = backward(x, weight, neg, grad_neg, None, ctx.options)
        assert dweight is not None
        grad_bias = None if dbias is None else spread_rows(dbias, subset, bias.shape[0]).to(bias.dtype)
        return dx.to(x.dtype), spread_rows(dweight, subset, weight.shape[0]).to(weight.dtype), grad_bias, None
