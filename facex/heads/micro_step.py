"""The beginning of a micro-step: where the labels lie in this shard, and what the margin makes of the targets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads.base import Margin, Rule
from facex.heads.foreign import ForeignRows, last_class
from facex.heads.sharded_softmax import MicroStep

if TYPE_CHECKING:
    from facex.heads.margin_head import MarginHead


def begin_step(head: MarginHead, labels: Tensor, norm: Tensor) -> MicroStep:
    """Where the global batch's labels [B, K] lie in this shard, which classes take part, and the rule for negatives where it
    is known already. `norm` [b]: lengths of this rank's embeddings."""
    here = (labels >= head.shard.start) & (labels < head.shard.stop)
    classes = torch.where(here, labels - head.shard.start, -1)
    subset, columns = None, classes
    if head.sample_rate < 1:
        subset = head.sampler.sample_labels(classes)
        columns = torch.where(here, torch.searchsorted(subset, classes.clamp(min=0)), -1)
    foreign = None
    if head.foreign_label == "official":
        if labels.shape[1] > 1 or head.label_smoothing:
            raise ConfigError("foreign_label 'official' knows one hard label a row (as JHMFR does); use 'ignore'")
        classes, columns = last_class(classes, columns, head.weight, subset)
        foreign = ForeignRows(~here[:, 0] & (classes[:, 0] >= 0), head.ranks.gather(norm))
    return MicroStep(
        ranks=head.ranks,
        weight=head.weight.data,
        bias=None if head.bias is None else head.bias.data,
        window=head.window,
        scale=head.margin.scale,
        normalize=head.normalize,
        precision=head.precision,
        impl=head.impl,
        classes=classes,
        subset=subset,
        columns=columns,
        margin=head.margin,
        smoothing=head.label_smoothing > 0,
        foreign=foreign,
        fused=head.fused,
        rule=None if foreign is not None else _early_rule(head, labels),
    )


@torch.no_grad()
def _early_rule(head: MarginHead, labels: Tensor) -> Rule | None:
    """The rule for negatives where it does not depend on the targets."""
    if head.margin.negatives_follow_targets:
        return None
    unknown = torch.full(labels.shape, math.nan, dtype=head.weight.dtype, device=labels.device)
    rule = head.margin.negatives(unknown, labels >= 0)
    for value in (rule.threshold, rule.hard_t):
        if isinstance(value, Tensor):
            _refuse_nan(head.margin, value)
    return rule


def _refuse_nan(margin: Margin, value: Tensor) -> None:
    """ConfigError (an asynchronous assertion on a GPU) for a rule that has the unknown targets in it."""
    known = ~torch.isnan(value).any()
    if value.is_cuda:
        torch._assert_async(known)
    elif not bool(known):
        raise ConfigError(
            f"{type(margin).__name__}.negatives reads the target cosines, but negatives_follow_targets is False: leave it True"
        )


@torch.no_grad()
def prepare_margin(head: MarginHead, step: MicroStep, cos: Tensor, norm: Tensor, valid: Tensor, labels: Tensor) -> None:
    """Update the margin's running values and find the rule for negatives. `cos`, `valid` [b, K] and `norm` [b] are this
    rank's rows, `labels` [B, K] everybody's."""
    seen, everything, chosen = {"norm": norm.detach(), "cos": cos.detach(), "valid": valid}, labels >= 0, step.cos
    reduce, first = head.ranks.sum, head.ranks.rank * len(norm)
    if step.foreign is not None and step.own is not None:  # each rank from the rows as it sees them, never synchronised
        everything, chosen = torch.ones_like(everything), step.own
        seen = {"norm": step.foreign.norm, "cos": step.own, "valid": everything}
        reduce, first = _own, 0
    if head.training:
        seen["row"] = torch.arange(len(seen["norm"]), device=norm.device) + first
        head.margin.observe(seen, reduce)
    if step.rule is None:
        assert chosen is not None
        step.rule = head.margin.negatives(chosen, everything)


def _own(values: Tensor) -> Tensor:
    """A reduction over this rank alone."""
    return values
