"""From the policy's logits to keep or black out: distributions over actions, their likelihoods and entropies.

An action is a vector of independent Bernoulli variables, 1 = keep the region. Two ways of exploring, each a distribution
with `probs` (to draw from) and `log_prob` (to differentiate):

    Perturbed   P = clip(p + noise, 0, 1), log-probabilities under P cut to [floor, 1 - floor] (the published code)
    Mixture     pi = (1 - eps) p + eps / 2, log-probabilities from the logits, never saturated (ours)

Everything works in the precision of its inputs; the method hands over float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from facex_sarface.options import FP32_FLOOR


class ActionDistribution(ABC):
    """Independent Bernoulli variables [B, A]."""

    @property
    @abstractmethod
    def probs(self) -> Tensor:
        """Probabilities [B, A] that actions are drawn from."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of each entry of `actions`, 0 or 1, [..., B, A]."""

    def sample(self, uniform: Tensor) -> Tensor:
        """Actions [..., B, A] of numbers `uniform` in [0, 1) of that shape, without gradient."""
        return (uniform < self.probs.detach()).to(self.probs.dtype)


class Perturbed(ActionDistribution):
    """Probabilities that noise has moved; the gradient is zero wherever one of the two cuts is active."""

    def __init__(self, probs: Tensor, floor: float = FP32_FLOOR) -> None:
        self._probs, self.floor = probs, floor

    @property
    def probs(self) -> Tensor:
        return self._probs

    def log_prob(self, actions: Tensor) -> Tensor:
        cut = self._probs.clamp(self.floor, 1 - self.floor)
        logits = (cut.log() - torch.log1p(-cut)).expand(actions.shape)
        return -F.binary_cross_entropy_with_logits(logits, actions.to(logits.dtype), reduction="none")


class Mixture(ActionDistribution):
    """With probability `eps` a fair coin for the entry, else the policy."""

    def __init__(self, logits: Tensor, eps: float = 0.0) -> None:
        self.logits, self.eps = logits, eps

    @property
    def probs(self) -> Tensor:
        return (1 - self.eps) * torch.sigmoid(self.logits) + self.eps / 2

    def log_prob(self, actions: Tensor) -> Tensor:
        sign = 2 * actions.to(self.logits.dtype) - 1
        own = F.logsigmoid(sign * self.logits)
        if self.eps == 0:
            return own
        coin = torch.full_like(own, math.log(self.eps / 2))
        if self.eps == 1:
            return coin
        return torch.logaddexp(own + math.log1p(-self.eps), coin)


def add_noise(probs: Tensor, noise: Tensor, coin: Tensor, eps: float) -> Tensor:
    """P [B, A] = clip(probs + noise, 0, 1) where the one `coin` (a scalar in [0, 1)) is below eps, else `probs`."""
    return torch.where(coin < eps, (probs + noise).clamp(0, 1), probs)


def pseudo_entropy(log_prob: Tensor) -> Tensor:
    """-sum_j exp(l_j) l_j [...] of the drawn actions' log-probabilities [..., A]: what the published loss calls entropy."""
    return -(log_prob.exp() * log_prob).sum(-1)


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Entropy [B] in nats of independent Bernoulli variables of logits [B, A], summed over the actions."""
    return (F.softplus(logits) - logits * torch.sigmoid(logits)).sum(-1)


def deterministic(logits: Tensor) -> Tensor:
    """The mask that is used outside training: 1 where p >= 0.5."""
    return (logits >= 0).to(logits.dtype)
