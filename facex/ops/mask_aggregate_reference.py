"""mask_aggregate in plain PyTorch: every step stored, any device, differentiable; what the operator is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATIONS = ("sigmoid", "tanh")
ARITHS = ("add", "sub", "mul", "div")
"""y + m, y - m, y * m, y / m."""


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The type of the arithmetic: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def reference(
    y: Tensor, a: Tensor, extra: Tensor | None, activation: str, arith: str, skip: bool, div_eps: float
) -> Tensor:
    """arith(y, act(a)) (+ extra) (+ y), rounded to y's type at the end."""
    features, pre = y.to(compute_dtype(y)), a.to(compute_dtype(y))
    m = torch.sigmoid(pre) if activation == "sigmoid" else torch.tanh(pre)
    z = combine(features, m, arith, div_eps)
    if extra is not None:
        z = z + extra.to(z.dtype)
    if skip:
        z = z + features
    return z.to(y.dtype)


def combine(y: Tensor, m: Tensor, arith: str, div_eps: float = 0.0) -> Tensor:
    """y + m, y - m, y * m or y / m; for div, m is replaced by sign(m) max(|m|, div_eps), sign(0) = 1."""
    if arith == "add":
        return y + m
    if arith == "sub":
        return y - m
    if arith == "mul":
        return y * m
    if div_eps > 0:
        bound = torch.where(m < 0, -div_eps, div_eps).to(m.dtype)
        m = torch.where(m.abs() < div_eps, bound, m)
    return y / m


def reference_folded(
    y: Tensor,
    h: Tensor,
    t: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    extra: Tensor | None,
    activation: str,
    arith: str,
    skip: bool,
    div_eps: float,
) -> Tensor:
    """`reference` of a = PReLU(scale_c * h + shift_c + t), with `a` in the type of the arithmetic."""
    dtype = compute_dtype(y)
    per_channel = (1, -1, *([1] * (y.dim() - 2)))
    scale, shift, slope = (c.to(dtype).reshape(per_channel) for c in (scale, shift, slope))
    u = scale * h.to(dtype) + shift + t.to(dtype)
    a = torch.where(u > 0, u, slope * u)
    wide = None if extra is None else extra.to(dtype)
    return reference(y.to(dtype), a, wide, activation, arith, skip, div_eps).to(y.dtype)
