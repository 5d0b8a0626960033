"""Gradient clipping: over a network, jointly with its head, or parameter by parameter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.methods import Group
from facex.train.config import ClipConfig


class Clipper:
    """Clips one network's gradients between the reduction over ranks and the step.

    At ZeRO-0 gradients lie whole on every rank and every scope is possible. Above that DeepSpeed keeps them flattened and
    sharded: only its own clipping over the whole network is right, and everything else is refused.
    """

    def __init__(self, network: str, config: ClipConfig, groups: list[Group], zero: int) -> None:
        self.config = config
        self._groups = groups
        self.last_norm: Tensor | None = None  # norm before clipping, where it was computed
        self._ours = config.norm > 0 and zero == 0
        self.deepspeed_norm = config.norm if config.norm > 0 and zero > 0 else 0.0
        if zero == 0:
            return
        where = f"network '{network}' at trainer.zero={zero}"
        if any(group.frozen_until > 0 for group in groups):
            raise ConfigError(
                f"{where}: ZeRO flattens gradients, so `frozen_until` cannot drop some; use trainer.zero=0"
            )
        if config.norm > 0 and config.scope != "network":
            raise ConfigError(f"{where}: ZeRO flattens gradients; clip scope '{config.scope}' needs trainer.zero=0")
        if config.norm > 0 and any(group.clip_scope != "global" for group in groups):
            raise ConfigError(
                f"{where}: ZeRO flattens gradients; groups with a clip scope of their own need trainer.zero=0"
            )

    @torch.no_grad()
    def clip(self, head_square: Callable[[], Tensor] | None) -> float:
        """Clip in place; returns the factor that joint clipping applied (1 otherwise)."""
        if not self._ours:
            return 1.0
        per_tensor = [
            p for g in self._groups if self._scope(g) == "per_tensor" for p in g.parameters if p.grad is not None
        ]
        for parameter in per_tensor:
            _shrink([parameter], parameter.grad.norm(), self.config.norm)  # type: ignore[union-attr]
        together = [p for g in self._groups if self._scope(g) == "global" for p in g.parameters if p.grad is not None]
        if not together:
            return 1.0
        square = torch.stack([p.grad.square().sum() for p in together]).sum()  # type: ignore[union-attr]
        joint = self.config.scope == "joint" and head_square is not None
        if joint:
            square = square + head_square().to(square.device)  # type: ignore[misc]
        self.last_norm = square.sqrt()
        _shrink(together, self.last_norm, self.config.norm)
        return float((self.config.norm / (self.last_norm + 1e-6)).clamp(max=1.0)) if joint else 1.0

    def _scope(self, group: Group) -> str:
        if group.clip_scope == "global" and self.config.scope == "per_tensor":
            return "per_tensor"
        return group.clip_scope


def _shrink(parameters: list[nn.Parameter], norm: Tensor, limit: float) -> None:
    # the factor that torch.nn.utils.clip_grad_norm_ uses
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.mul_(factor)
