"""Inputs and the closed formulas of the mask_aggregate tests: one place for all of them."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

RULES = list(product(("sigmoid", "tanh"), ("add", "sub", "mul", "div")))
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EPS = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
cuda = pytest.param(
    "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
)
DEVICES = ["cpu", cuda]


def formulas(y: Tensor, a: Tensor, g: Tensor, activation: str, arith: str, skip: bool) -> tuple[Tensor, ...]:
    """z, dy, da in float64, from the derivatives written out."""
    y, a, g = y.double(), a.double(), g.double()
    m = 1 / (1 + (-a).exp()) if activation == "sigmoid" else a.tanh()
    slope = m * (1 - m) if activation == "sigmoid" else 1 - m * m
    z, dy, da = {
        "add": (y + m, g, g * slope),
        "sub": (y - m, g, -g * slope),
        "mul": (y * m, g * m, g * y * slope),
        "div": (y / m, g / m, -g * y * slope / (m * m)),
    }[arith]
    return (z + y, dy + g, da) if skip else (z, dy, da)


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, rule: tuple[str, str], device: str = "cpu", count: int = 3
) -> list[Tensor]:
    """y, a, g, ...; a is kept away from 0 where m divides and can be 0."""
    generator = torch.Generator().manual_seed(3)
    made = [torch.randn(shape, generator=generator) for _ in range(count)]
    made[1] = made[1] * 1.5
    if rule == ("tanh", "div"):
        made[1] = made[1] + torch.where(made[1] < 0, -0.3, 0.3)
    return [tensor.to(dtype).to(device) for tensor in made]


def close(value: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    """Within rounding of each element, and of the sums that lead to it."""
    assert value.dtype == dtype
    torch.testing.assert_close(
        value.double(), truth, rtol=EPS[dtype], atol=4 * EPS[dtype] if EPS[dtype] < 1e-4 else 2e-6
    )


ORDERS = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),
    "strided": lambda t: torch.stack([t, t + 1], dim=-1)[..., 0],
    "unaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t),
    "expanded": lambda t: t[:, :1].expand_as(t),
}
