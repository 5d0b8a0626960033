"""Fake (meta) kernels and autograd of torch.ops.facex.mask_aggregate*, registered once the extension is loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Maybe = Tensor | None


def _fake(y: Tensor, a: Tensor, extra: Maybe, activation: str, arith: str, skip: bool, div_eps: float) -> Tensor:
    torch._check(y.shape == a.shape)
    return torch.empty_like(y)


def _backward_fake(
    grad: Tensor,
    y: Maybe,
    a: Tensor,
    activation: str,
    arith: str,
    skip: bool,
    div_eps: float,
    need_y: bool,
    need_a: bool,
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(a) if need_y else a.new_empty(0),
        torch.empty_like(a) if need_a else a.new_empty(0),
    )


def _folded_fake(
    y: Tensor,
    h: Tensor,
    t: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    extra: Maybe,
    activation: str,
    arith: str,
    skip: bool,
    div_eps: float,
) -> Tensor:
    last = y.dim() == 4 and y.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(y, memory_format=torch.channels_last if last else torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    y, a, _, activation, arith, skip, div_eps = inputs
    # The gradients of add and sub do not depend on y: it need not live on for them.
    ctx.save_for_backward(y if arith in ("mul", "div") else None, a)
    ctx.options = activation, arith, skip, div_eps


def _backward(ctx: Any, grad: Tensor) -> tuple[Maybe, ...]:
    y, a = ctx.saved_tensors
    _, arith, skip, _ = ctx.options
    need_y, need_a, need_extra = ctx.needs_input_grad[:3]
    as_is = need_y and not skip and arith in ("add", "sub")  # then dy is the upstream gradient itself
    dy, da = torch.ops.facex.mask_aggregate_backward(grad, y, a, *ctx.options, need_y and not as_is, need_a)
    grad_y = (grad if as_is else dy) if need_y else None
    return grad_y, da if need_a else None, grad if need_extra else None, None, None, None, None


def _no_gradient(ctx: Any, grad: Tensor) -> tuple[Maybe, ...]:
    raise RuntimeError("facex::mask_aggregate_folded is for inference and has no gradient: use mask_aggregate")


def register() -> None:
    """Register the fakes and autograd; called once, by `facex.ops.extension()`."""
    torch.library.register_fake("facex::mask_aggregate", _fake)
    torch.library.register_fake("facex::mask_aggregate_backward", _backward_fake)
    torch.library.register_fake("facex::mask_aggregate_folded", _folded_fake)
    torch.library.register_autograd("facex::mask_aggregate", _backward, setup_context=_setup_context)
    torch.library.register_autograd("facex::mask_aggregate_folded", _no_gradient)
