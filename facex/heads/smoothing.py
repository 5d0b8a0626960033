"""Label smoothing without the logits: a class that is no label of the row gets the share eps / C.

The cross entropy then holds (eps / C) * sum_j logit_j over those classes, and sum_j <x, w_j> = <x, sum_j w_j>: one
vector of D numbers for all of them. Its gradient is the same vector for x, and one vector u = sum_i g_i x_i for every
class centre.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads.base import Rule
from facex.heads.gradients import CHUNK_ROWS

if TYPE_CHECKING:
    from facex.heads.sharded_softmax import MicroStep


def check_rule(margin: str, rule: Rule | None) -> None:
    """ConfigError unless the other classes' logits are their cosines: only then is their sum a product with a vector."""
    assert rule is not None
    if rule.name not in ("plain", "clamp") or rule.bound != 1:
        kind = "a rule of its own" if callable(rule.name) else f"the rule {rule.name!r}"
        raise ConfigError(
            f"label smoothing needs plain logits at the classes that are not the label, and {margin} gives them {kind} "
            f"(bound {rule.bound:g}); switch off its filter or clamp, or set label_smoothing to 0"
        )


def centre_sum(step: MicroStep) -> tuple[Tensor, Tensor, Tensor]:
    """Over the classes of all ranks that take part: sum of the (unit) class centres [D], of the biases, their number."""
    weight, subset = step.weight, step.subset
    taking_part = weight.shape[0] if subset is None else subset.shape[0]
    total = torch.zeros(weight.shape[1] + 2, dtype=torch.float64, device=weight.device)
    for start in range(0, taking_part, CHUNK_ROWS):
        rows = _rows(step, start)
        total[:-2] += (rows * _inverse(rows, step.normalize)).sum(0)
    if step.bias is not None:
        total[-2] = (step.bias if subset is None else step.bias[subset]).sum()
    total[-1] = taking_part
    total = step.ranks.sum(total)
    return total[:-2].to(weight.dtype), total[-2].to(weight.dtype), total[-1].to(weight.dtype)


def smooth(
    step: MicroStep,
    share: float,
    neg: Tensor,
    valid: Tensor,
    weights: Tensor,
    total: Tensor,
    cos: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """With the `share` of a label spread over all classes: neg [b], the labels' weights [b, K], and the other classes' part of
    sum_j w_j logit_j [b]. `total` [b] is the sum of all logits, `bias` [b, K] the labels'."""
    assert step.count is not None
    margin, each = step.margin, share / step.count
    offset = margin.offset(each)
    labels = torch.where(valid, margin.scale * cos + bias, torch.zeros_like(cos)).sum(1)
    rest = each * (total - labels + offset * (step.count - valid.sum(1)))
    return neg + offset, torch.where(valid, weights * (1 - share) + each, 0.0), rest


def add_gradient(step: MicroStep, upstream: Tensor) -> None:
    """Add to the window what the sum contributes: `upstream` [B] is the loss's gradient with respect to each row's
    scale * <x, sum of centres> + sum of biases."""
    assert step.x is not None
    if step.empty():
        return
    u = step.scale * (upstream @ step.x)
    taking_part = (step.weight if step.subset is None else step.subset).shape[0]
    for start in range(0, taking_part, CHUNK_ROWS):
        rows = _rows(step, start)
        inverse = _inverse(rows, step.normalize)
        gradient = inverse * u
        if step.normalize:
            unit = rows * inverse
            gradient = gradient - inverse * unit * (unit @ u)[:, None]
        if step.subset is None:
            step.window.buffer()[start : start + CHUNK_ROWS] += gradient
        else:
            step.window.add_rows(step.subset[start : start + CHUNK_ROWS], gradient)
    if step.bias is not None:
        step.window.add_bias(upstream.sum().expand(taking_part), step.subset)


def _rows(step: MicroStep, start: int) -> Tensor:
    stop = start + CHUNK_ROWS
    return step.weight[start:stop] if step.subset is None else step.weight[step.subset[start:stop]]


def _inverse(rows: Tensor, normalize: bool) -> Tensor:
    """1 / length [n, 1] (1 for plain dot products)."""
    if not normalize:
        return rows.new_ones((rows.shape[0], 1))
    return 1 / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-12)
