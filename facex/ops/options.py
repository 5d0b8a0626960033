"""The options that every form of cosine_logsumexp takes, brought into one shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facex.ops.rules import Rule, check_rule

COMPUTE_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Operand types of the matrix products; None = as they are."""


@dataclass(frozen=True)
class Options:
    """Options of one call: `threshold` is [B] or None, `hard_t` [1] or None, in the accumulation type."""

    scale: float
    excluded: Tensor | None
    rule: Rule
    threshold: Tensor | None
    hard_t: Tensor | None
    normalize: bool
    bias: Tensor | None
    subset: Tensor | None
    compute_dtype: str

    def tensors(self) -> tuple[Tensor | None, ...]:
        """The tensors in the order of the operator's schema."""
        return self.excluded, self.threshold, self.hard_t, self.bias, self.subset


def accumulation_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """float64 if either is, otherwise float32."""
    return torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32


def make_options(
    x: Tensor,
    weight: Tensor,
    *,
    scale: float,
    excluded: Tensor | None,
    rule: Rule,
    threshold: Tensor | float | None,
    hard_t: Tensor | float | None,
    normalize: bool,
    bias: Tensor | None,
    subset: Tensor | None,
    compute_dtype: str,
) -> Options:
    """Check the options and bring numbers into tensors: a scalar threshold into one a row, `hard_t` into [1]."""
    if compute_dtype not in COMPUTE_DTYPES:
        raise ValueError(f"compute_dtype is {compute_dtype!r}; it must be one of {', '.join(COMPUTE_DTYPES)}")
    dtype = accumulation_dtype(x, weight)
    rows = _as_tensor(threshold, x, dtype)
    if rows is not None:
        rows = rows.expand(x.shape[0]) if rows.numel() == 1 and rows.dim() <= 1 else rows.reshape(-1)
    strength = _as_tensor(hard_t, x, dtype)
    if strength is not None:
        strength = strength.reshape(1)
    check_rule(rule, rows, strength)
    return Options(float(scale), excluded, rule, rows, strength, normalize, bias, subset, compute_dtype)


def _as_tensor(value: Tensor | float | None, x: Tensor, dtype: torch.dtype) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.detach().to(dtype)
    return torch.full((1,), float(value), dtype=dtype, device=x.device)
