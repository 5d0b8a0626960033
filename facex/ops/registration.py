"""Fake (meta) kernels and autograd of torch.ops.facex.cosine_logsumexp*, registered once the extension is loaded.

Each fake kernel computes only shapes, so that torch.compile and export can trace through the operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from facex.ops.options import accumulation_dtype

Maybe = Tensor | None


def _columns(weight: Tensor, subset: Maybe) -> int:
    return weight.shape[0] if subset is None else subset.shape[0]


def _forward_fake(
    x: Tensor,
    weight: Tensor,
    excluded: Maybe,
    threshold: Maybe,
    hard_t: Maybe,
    bias: Maybe,
    subset: Maybe,
    scale: float,
    rule: str,
    normalize: bool,
    compute_dtype: str,
) -> Tensor:
    torch._check(x.dim() == 2 and weight.dim() == 2 and x.shape[1] == weight.shape[1])
    return x.new_empty(x.shape[0], dtype=accumulation_dtype(x, weight))


def _backward_into_fake(
    x: Tensor,
    weight: Tensor,
    lse: Tensor,
    grad_neg: Tensor,
    excluded: Maybe,
    excluded_grad: Maybe,
    threshold: Maybe,
    hard_t: Maybe,
    bias: Maybe,
    subset: Maybe,
    scale: float,
    rule: str,
    normalize: bool,
    compute_dtype: str,
    dweight: Tensor,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x, weight)
    dbias = x.new_empty(0 if bias is None else _columns(weight, subset), dtype=dtype)
    return x.new_empty(x.shape, dtype=dtype), dbias


def _backward_fake(
    x: Tensor,
    weight: Tensor,
    lse: Tensor,
    grad_neg: Tensor,
    excluded: Maybe,
    excluded_grad: Maybe,
    threshold: Maybe,
    hard_t: Maybe,
    bias: Maybe,
    subset: Maybe,
    scale: float,
    rule: str,
    normalize: bool,
    compute_dtype: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, columns = accumulation_dtype(x, weight), _columns(weight, subset)
    dbias = x.new_empty(0 if bias is None else columns, dtype=dtype)
    return x.new_empty(x.shape, dtype=dtype), x.new_empty((columns, x.shape[1]), dtype=dtype), dbias


def _step_fake(
    x: Tensor,
    weight: Tensor,
    lse: Tensor,
    grad_neg: Tensor,
    excluded: Maybe,
    excluded_grad: Maybe,
    threshold: Maybe,
    hard_t: Maybe,
    bias: Maybe,
    *numbers: Any,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x, weight)
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(0 if bias is None else weight.shape[0], dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, scale, rule, normalize, compute_dtype = inputs
    ctx.save_for_backward(*tensors, output)
    ctx.scalars = scale, rule, normalize, compute_dtype


def spread_rows(gradient: Tensor, subset: Maybe, rows: int) -> Tensor:
    """The gradient of chosen rows as a gradient of all `rows` rows."""
    if subset is None:
        return gradient
    return gradient.new_zeros((rows, *gradient.shape[1:])).index_add(0, subset, gradient)


def _backward(ctx: Any, grad_neg: Tensor) -> tuple[Maybe, ...]:
    x, weight, excluded, threshold, hard_t, bias, subset, lse = ctx.saved_tensors
    dx, dweight, dbias = torch.ops.facex.cosine_logsumexp_backward(
        x, weight, lse, grad_neg, excluded, None, threshold, hard_t, bias, subset, *ctx.scalars
    )
    needs = ctx.needs_input_grad
    grad_x = dx.to(x.dtype) if needs[0] else None
    grad_weight = spread_rows(dweight, subset, weight.shape[0]).to(weight.dtype) if needs[1] else None
    grad_bias = spread_rows(dbias, subset, bias.shape[0]).to(bias.dtype) if bias is not None and needs[5] else None
    return grad_x, grad_weight, None, None, None, grad_bias, None, None, None, None, None


def register() -> None:
    """Register the fakes and autograd; called once, by `facex.ops.extension()`."""
    torch.library.register_fake("facex::cosine_logsumexp", _forward_fake)
    torch.library.register_fake("facex::cosine_logsumexp_backward", _backward_fake)
    torch.library.register_fake("facex::cosine_logsumexp_backward_into", _backward_into_fake)
    torch.library.register_fake("facex::cosine_logsumexp_step", _step_fake)
    torch.library.register_autograd("facex::cosine_logsumexp", _backward, setup_context=_setup_context)
