"""What a mask earns: whether it turns a wrong identification right, or how it moves the margin; and its sparsity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facex.methods.method import HeadScore
from facex_sarface.options import RewardConfig

AREA_EPS = 1e-5


@dataclass(frozen=True)
class Scores:
    """How the head sees pictures [b] of known people: cosine with their own class, the best other one, and whose it is."""

    target: Tensor
    other: Tensor
    other_class: Tensor

    @staticmethod
    def of(head: HeadScore, embeddings: Tensor, labels: Tensor) -> Scores:
        """Over all classes and shards, without gradient, in the precision of the class centres."""
        return Scores(*head.score(embeddings.float(), labels))

    def correct(self, labels: Tensor) -> Tensor:
        """bool [b]: the own class is the strongest; of equal ones the first counts."""
        tied = (self.target == self.other) & (labels < self.other_class)
        return (self.target > self.other) | tied

    @property
    def gap(self) -> Tensor:
        """[b]: target cosine minus the best other one."""
        return self.target - self.other


def flip_reward(full: Scores, masked: Scores, labels: Tensor) -> Tensor:
    """[b]: +1 where masking makes a wrong identification right, -1 where it makes a right one wrong, else 0."""
    return masked.correct(labels).float() - full.correct(labels).float()


def margin_reward(full: Scores, masked: Scores, tau: float) -> Tensor:
    """[b]: the change of the gap, divided by tau and cut to [-1, 1]. Dense; has flip's sign wherever that is not 0."""
    return ((masked.gap - full.gap) / tau).clamp(-1, 1).float()


def sparsity(area: Tensor, pixels: int, config: RewardConfig) -> Tensor:
    """[b], of kept pixels `area` [b] among `pixels`."""
    if config.sparsity == "inverse_area":
        return config.weight / (area + AREA_EPS)
    if config.sparsity == "fraction":
        return config.weight * (1 - area / pixels)
    return torch.zeros_like(area)


def recognition_reward(
    full: Scores, masked: Scores, labels: Tensor, area: Tensor, pixels: int, config: RewardConfig
) -> Tensor:
    """r [b]: of the kind that is configured, and -1 where less than `min_area` of the picture is kept."""
    if config.kind == "flip":
        reward = flip_reward(full, masked, labels)
    else:
        reward = margin_reward(full, masked, config.tau)
    return torch.where(too_small(area, pixels, config), -torch.ones_like(reward), reward)


def too_small(area: Tensor, pixels: int, config: RewardConfig) -> Tensor:
    """bool [b]: masks that keep less than `min_area` of the picture."""
    return area < config.min_area * pixels
