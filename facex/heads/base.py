"""Margin: what a loss does to the target's logit, knowing nothing of shards or ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facex.errors import ConfigError

RuleName = Literal["plain", "clamp", "zero_above", "hard"]
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """What happens to the cosines that are not a row's target, before they are multiplied by the scale.

    name
        ``plain``       nothing
        ``clamp``       cut to [-bound, bound], gradient 0 outside
        ``zero_above``  cos > threshold becomes 0 with gradient 0 (insightface's inter-class filter)
        ``hard``        cos > threshold becomes cos * (hard_t + cos), gradient through both factors (CurricularFace)
        a callable      cos -> logit / scale, elementwise and differentiable (slower path, same memory)
    threshold: number, or one per row of the global batch [B].
    """

    name: RuleName | Callable[[Tensor], Tensor] = "plain"
    threshold: Tensor | float | None = None
    hard_t: Tensor | float = 0.0
    bound: float = 1.0

    def limit(self) -> Tensor | float | None:
        """What the op calls the rule's threshold: the bound of a clamp."""
        return self.bound if self.name == "clamp" else self.threshold


class Margin(nn.Module):
    """Base of every margin. A subclass usually writes `target` alone.

    Everything is elementwise on B numbers in float32 (or float64), outside autocast. `scale` multiplies every logit.
    """

    scale: float
    negatives_follow_targets: bool = True
    """Whether `negatives` reads `cos` or running values. A margin that says False is asked early, with NaN for every cosine,
    and the big product then runs while the target cosines travel between ranks."""

    def __init__(self, s: float = 64.0) -> None:
        super().__init__()
        if not s > 0:
            raise ConfigError(f"{type(self).__name__}: the scale s must be positive, not {s}")
        self.scale = float(s)

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        """The target's logit, scale included.

        `cos` cosine of a row with its class centre (not clamped), `norm` length of the raw embedding, `weight` the
        label's share when a row has several (mixup); all of one shape, elementwise.
        """
        return self.scale * cos

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        """The rule for all other columns. Called without gradient with the target cosines of the global batch:
        `cos` [B, K], `valid` bool [B, K] (False: no such label)."""
        return Rule("clamp")

    def offset(self, share: Tensor) -> Tensor | float:
        """What is added to the logit of a class that has only this share of a label (label smoothing gives every class
        one). 0 unless the margin's strength depends on the share."""
        return 0.0

    def regulariser(self, norm: Tensor) -> Tensor | None:
        """A further loss per row [b], already weighted, or None."""
        return None

    def observe(self, statistics: Mapping[str, Tensor], reduce: Reduce) -> None:
        """Update running values before they are used; called once per training micro-step, without gradient.

        `statistics`: `norm` [b], `cos` [b, K] and `valid` bool [b, K] of this rank's rows, and `row` int64 [b], their
        places in the batch of all ranks. `reduce` sums a tensor over ranks, so that running values stay equal on every
        rank.
        """

    def row_loss(self, target: Tensor, neg: Tensor) -> Tensor:
        """The loss of a row [b] from its target's logit (of several labels, their logsumexp) and the logsumexp of all other
        logits: -log softmax at the target. A softplus of the difference keeps tiny losses exact, where logaddexp minus
        the target would cancel."""
        return F.softplus(neg - target, threshold=50)

    def observe_loss(self, statistics: Mapping[str, Tensor], reduce: Reduce) -> None:
        """As `observe`, once the logits are known: update running values for the next micro-step.

        `statistics`: `target` [b, K] and `neg` [b] as `row_loss` has them, `valid` bool [b, K].
        """

    def monitor(self, cos: Tensor, norm: Tensor) -> dict[str, Tensor]:
        """Scalars worth a curve (detached), from this rank's rows: `cos` [b, K], `norm` [b]."""
        return {}

    def extra_repr(self) -> str:
        return f"s={self.scale:g}"


def straight_through(value: Tensor, cos: Tensor) -> Tensor:
    """`value`, with the gradient of `cos`: the margin is invisible to the backward pass (insightface)."""
    return value.detach() + (cos - cos.detach())


def sine(cos: Tensor, official_nan: bool = False) -> Tensor:
    """sqrt(1 - cos^2), kept off the infinite slope at |cos| = 1 unless `official_nan` asks for it."""
    square = 1 - cos * cos
    return (square if official_nan else square.clamp(min=1e-12)).sqrt()


def require_choice(owner: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ConfigError that names the choices unless `value` is one of them."""
    if value not in choices:
        raise ConfigError(f"{owner}: {name} must be one of {', '.join(choices)}, not {value!r}")


def masked_mean(values: Tensor, valid: Tensor, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """Mean of the valid entries over all ranks and their number, both float64 scalars."""
    values = torch.where(valid, values, torch.zeros_like(values)).double()
    total = reduce(torch.stack([values.sum(), valid.sum().double()]))
    return total[0] / total[1].clamp(min=1), total[1]
