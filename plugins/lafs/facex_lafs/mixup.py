"""Mixup of a batch with its own reverse, as two labels a picture with their shares: never a dense B x C target.

Source: Zhang et al., ICLR 2018, in timm's batch mode: with probability `prob` lambda ~ Beta(alpha, alpha), otherwise
1; one lambda for the whole micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facex.errors import ConfigError

TRIES = 64  # of Joehnk's method; all fail with a chance below 1e-5 for alpha up to 2


@dataclass(frozen=True)
class Mixup:
    """How often and how strongly a batch is mixed."""

    alpha: float = 0.2
    """Both parameters of the Beta distribution, at most 2; 0: no mixing."""
    prob: float = 0.1
    """Probability that a batch is mixed."""

    def check(self) -> None:
        """ConfigError for values that cannot be."""
        if not 0 <= self.alpha <= 2 or not 0 <= self.prob <= 1:
            raise ConfigError(f"mixup: alpha={self.alpha} lies in 0..2, prob={self.prob} in 0..1")

    @property
    def active(self) -> bool:
        """Whether a batch is ever mixed."""
        return self.alpha > 0 and self.prob > 0

    def draw(self, uniform: Tensor) -> Tensor:
        """Lambda, float32 [], from uniform numbers [1 + 2 * TRIES], without waiting for the device.

        Joehnk: X = U^(1/a), Y = V^(1/a) with X + Y <= 1, then X / (X + Y) is Beta(a, a).
        """
        u, v = uniform[1:].double().clamp(min=2.0**-25).view(2, TRIES) ** (1 / self.alpha)
        first = ((u + v) <= 1).int().argmax()
        lam = (u / (u + v))[first].float()
        return torch.where(uniform[0] < self.prob, lam, torch.ones_like(lam))


def mix(images: Tensor, labels: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(lam x + (1 - lam) reversed x, labels int64 [B, 2], their shares float32 [B, 2]) of images [B, ...] and labels
    [B].

    An odd batch mixes its middle picture with itself; equal labels add up in the head.
    """
    mixed = images * lam + images.flip(0) * (1 - lam)
    shares = torch.stack([lam, 1 - lam]).expand(len(labels), 2).contiguous()
    return mixed, torch.stack([labels, labels.flip(0)], 1), shares
