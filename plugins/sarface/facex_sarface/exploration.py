"""How the policy explores during training: its schedule, and the draws, which depend on a picture's place in the run alone."""

from __future__ import annotations

from torch import Tensor

from facex.methods import Batch, Context, Schedule
from facex_sarface.actions import ActionDistribution, Mixture, Perturbed, add_noise
from facex_sarface.options import ExplorationConfig


class Explorer:
    """Makes distributions over actions and draws from them. A stream names a pass: its draws are its own.

    The published coin is one per batch and rank: here one per micro-batch, that of its first place in the global batch, so
    that it is the same whatever order the pictures stand in.
    """

    def __init__(self, config: ExplorationConfig) -> None:
        self.config = config

    def schedule(self) -> Schedule:
        """The share of exploration by applied step of the policy."""
        c = self.config
        return Schedule.constant(c.eps) if c.eps_end is None else Schedule.linear(c.eps, c.eps_end, c.steps)

    def distribution(self, logits: Tensor, eps: float, stream: str, batch: Batch, ctx: Context) -> ActionDistribution:
        """What actions are drawn from, of the policy's logits [b, A]."""
        if self.config.kind == "mixture":
            return Mixture(logits, eps)
        first = batch.position.argmin().view(1)
        coin = ctx.uniform(f"{stream}/coin").index_select(0, first)[0]
        noise = self.config.sigma * ctx.normal(f"{stream}/noise", logits.shape[1])
        return Perturbed(add_noise(logits.sigmoid(), noise, coin, eps), self.config.floor)

    @staticmethod
    def draw(policy: ActionDistribution, stream: str, ctx: Context, samples: int = 1) -> Tensor:
        """Actions [samples, b, A], 0 or 1."""
        uniform = ctx.uniform(f"{stream}/actions", samples, policy.probs.shape[-1])
        return policy.sample(uniform.movedim(1, 0))
