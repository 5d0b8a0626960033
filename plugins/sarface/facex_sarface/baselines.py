"""The policy-gradient loss: rewards less a baseline, times the log-likelihood of what was done (REINFORCE, Williams 1992).

A baseline leaves the gradient's expectation alone as long as it does not depend on the action that it judges: the mean of
other samples (leave one out, Kool et al. 2019), the reward of the deterministic mask (self-critical, Rennie et al. 2017), or
a running mean of the past.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facex_sarface.options import BaselineConfig
from facex_sarface.rollout import Rollout

Reduce = Callable[[Tensor], Tensor]
STD_FLOOR = 1e-3


class Baseline(nn.Module):
    """What is subtracted from the rewards of a micro-batch. Statistics are those of all ranks' pictures in this micro-step; the
    running mean (`ema`) takes in whole steps, of all ranks and micro-batches."""

    mean: Tensor

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind == "ema":
            self.register_buffer("mean", torch.zeros(()))
        self._since: Tensor | None = None  # sum and number of the rewards since the last step

    @torch.no_grad()
    def forward(self, rollout: Rollout, reduce: Reduce) -> Tensor:
        """Advantages [K, b]; `reduce` sums over ranks."""
        rewards, kind = rollout.rewards, self.config.kind
        advantages = rewards
        if kind == "loo":
            advantages = rewards - leave_one_out(rewards, rollout.valid, reduce)
        elif kind == "greedy":
            assert rollout.greedy is not None
            advantages = rewards - rollout.greedy
        elif kind == "ema":
            advantages = rewards - self.mean
            counted = torch.where(rollout.valid, rewards, 0)
            new = torch.stack([counted.sum(), (len(rewards) * rollout.valid.sum()).to(rewards.dtype)])
            self._since = new if self._since is None else self._since + new
        return normalized(advantages, rollout.valid, reduce) if self.config.normalize else advantages

    @torch.no_grad()
    def after_step(self, reduce: Reduce) -> None:
        """The policy has been stepped."""
        if self._since is not None:
            total, count = reduce(self._since)
            self.mean.lerp_(total / count.clamp(min=1), 1 - self.config.momentum)
            self._since = None


def leave_one_out(rewards: Tensor, valid: Tensor, reduce: Reduce) -> Tensor:
    """Baseline of rewards [K, b]: the mean of the image's other samples for K > 1, else of the batch's other valid images.

    `valid` bool [b]; `reduce` sums over ranks. 0 where there is no other.
    """
    samples = len(rewards)
    if samples > 1:
        return (rewards.sum(0) - rewards) / (samples - 1)
    counted = torch.where(valid, rewards, 0)
    total, count = reduce(torch.stack([counted.sum(), valid.sum().to(rewards.dtype)]))
    return torch.where(valid, (total - counted) / (count - 1).clamp(min=1), 0)


def normalized(advantages: Tensor, valid: Tensor, reduce: Reduce) -> Tensor:
    """Advantages [K, b] divided by their deviation over the valid images of all ranks, which counts as 1e-3 at least."""
    return advantages / moments(advantages, valid, reduce)[1].sqrt().clamp(min=STD_FLOOR)


def moments(values: Tensor, valid: Tensor, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """Mean and variance (scalars) of values [K, b] over the samples of the valid images of all ranks."""
    counted = torch.where(valid, values, 0)
    total, square, count = reduce(
        torch.stack([counted.sum(), counted.square().sum(), (len(values) * valid.sum()).to(values.dtype)])
    )
    mean = total / count.clamp(min=1)
    return mean, (square / count.clamp(min=1) - mean.square()).clamp(min=0)


def surrogate(log_prob: Tensor, advantages: Tensor) -> Tensor:
    """Loss [b] whose gradient is the policy gradient: -mean_k A_k sum_j log pi(a_kj).

    `log_prob` [K, b, A] of the actions that were drawn, `advantages` [K, b], taken as constants.
    """
    return -(log_prob.sum(-1) * advantages.detach()).mean(0)
