"""Inputs of the operator tests: shapes deliberately odd, one place for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

# (B, D, C): one sample, fewer classes than a chunk, a multiple of nothing, one more than a chunk, several blocks of
# samples
SHAPES = [(1, 5, 3), (1, 33, 700), (2, 64, 256), (7, 13, 257), (65, 31, 515), (128, 96, 1000), (300, 40, 333)]
RULES = ["plain", "clamp", "bound", "zero_above", "hard"]  # bound: clamp with a bound of its own for each sample


@dataclass
class Inputs:
    """One call's tensors in float64, and its options."""

    x: Tensor
    weight: Tensor
    options: dict[str, Any]
    excluded_grad: Tensor
    grad_neg: Tensor

    def as_dtype(self, dtype: torch.dtype) -> Inputs:
        """The same with every floating tensor in another type."""
        options = {
            k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in self.options.items()
        }
        tensors = (self.x, self.weight, self.excluded_grad, self.grad_neg)
        x, weight, excluded_grad, grad_neg = (t.to(dtype) for t in tensors)
        return Inputs(x, weight, options, excluded_grad, grad_neg)


def make(
    shape: tuple[int, int, int], rule: str = "plain", *, excluded: int = 1, seed: int = 0, **options: Any
) -> Inputs:
    """Random inputs: samples lean towards a class each, so that the rules' conditions occur."""
    batch, dim, classes = shape
    g = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    weight = randn(classes, dim) * 0.3
    labels = torch.randint(0, classes, (batch,), generator=g)
    x = normalize(normalize(randn(batch, dim)) + 0.7 * normalize(weight[labels]))
    columns = labels[:, None].repeat(1, excluded)
    if excluded > 1:
        columns[:, 1:] = torch.randint(-1, classes, (batch, excluded - 1), generator=g)
    options = {
        "scale": 16.0,
        "rule": "clamp" if rule == "bound" else rule,
        "excluded": columns if excluded else None,
        **options,
    }
    if rule in ("zero_above", "hard"):
        options["threshold"] = randn(batch) * 0.1
    if rule == "bound":
        options["threshold"] = _bounds((x @ normalize(weight).t()).abs())
    if rule == "hard":
        options["hard_t"] = torch.tensor([0.3], dtype=torch.float64)
    if rule == "clamp":  # cosines beyond 1 need an x that is longer than 1
        x = x * 1.5
    return Inputs(x, weight, options, randn(batch, max(excluded, 1)), randn(batch))


def _bounds(cosines: Tensor) -> Tensor:
    """For each row a bound that some of its values exceed, in the widest gap there: rounding moves none across."""
    largest = cosines.sort(1).values[:, min(9 * cosines.shape[1] // 10, cosines.shape[1] - 2) :]
    gap = largest.diff(dim=1).argmax(1, keepdim=True)
    return ((largest.gather(1, gap) + largest.gather(1, gap + 1)) / 2)[:, 0]


def error(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth|, 0 for two zeros."""
    truth = truth.double()
    difference = (value.double() - truth).norm()
    return 0.0 if difference == 0 else float(difference / truth.norm())
