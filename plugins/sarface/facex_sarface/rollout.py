"""One micro-batch of exploration: what the policy did to each picture, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from facex_sarface.rewards import Scores


@dataclass(frozen=True)
class Judgement:
    """What one mask of each picture [b] earned."""

    scores: Scores  # of the masked pictures
    recognition: Tensor  # r [b]
    reward: Tensor  # r plus sparsity [b]
    area: Tensor  # kept pixels, float32 [b]


@dataclass(frozen=True)
class Rollout:
    """K samples of b pictures; `logits` and `log_prob` carry the policy's graph."""

    logits: Tensor  # [b, A]
    probs: Tensor  # [b, A] that the actions were drawn from
    actions: Tensor  # [K, b, A]
    log_prob: Tensor  # [K, b, A]
    full: Scores  # of the whole pictures
    judged: list[Judgement]  # of each sample
    valid: Tensor  # bool [b]: pictures with a label
    greedy: Tensor | None = None  # reward [b] of the deterministic mask, where the baseline asks for it

    def detached(self) -> Rollout:
        """The same without the graph."""
        return replace(self, logits=self.logits.detach(), log_prob=self.log_prob.detach())

    @property
    def rewards(self) -> Tensor:
        """[K, b]."""
        return torch.stack([j.reward for j in self.judged])

    @property
    def recognition(self) -> Tensor:
        """r [K, b]."""
        return torch.stack([j.recognition for j in self.judged])

    @property
    def area(self) -> Tensor:
        """Kept pixels [K, b]."""
        return torch.stack([j.area for j in self.judged])


@torch.no_grad()
def rollout_logs(
    rollout: Rollout, advantages: Tensor, entropy: Tensor, names: tuple[str, ...], kept: int
) -> dict[str, Tensor]:
    """Scalars for the log: rewards and their shares, advantage variance, entropy, areas, keep rate of each region.

    `names` of the removable regions; `kept` regions that always stay.
    """
    r, actions = rollout.recognition, rollout.actions
    rates = actions.mean((0, 1)).float()
    logs = {
        "reward": rollout.rewards.mean(),
        "helped": (r > 0).float().mean(),
        "hurt": (r < 0).float().mean(),
        "advantage_variance": advantages.var(correction=0),
        "policy_entropy": entropy.mean(),
        "area": rollout.area.mean(),
        "kept_regions": kept + actions.sum(-1).mean(),
        "gap_full": rollout.full.gap.mean(),
        "gap_masked": torch.stack([j.scores.gap for j in rollout.judged]).mean(),
    }
    return logs | {f"keep/{name.replace(' ', '_')}": rate for name, rate in zip(names, rates, strict=True)}
