"""Partial FC: which classes of a shard take part at a micro-step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor


class ClassSampler:
    """The published rule (arcface_torch, PartialFC_V2).

    All classes of the global batch in this shard are taken. If they are not more than int(rate * shard size), a uniform
    number is drawn for every class, those of the positives are set to 2, and the highest are taken; otherwise the
    positives alone, without a draw.

    Args:
        num_local: classes of the shard.
        rate: share that takes part.
        seed: of the CPU generator. `seeds` ``shared``: the same on every rank, so equal shards draw alike (the
            published behaviour); ``per_rank``: seed + rank.
        uniform: draws `num_local` numbers; default: torch.rand of the generator.
    """

    def __init__(
        self,
        num_local: int,
        rate: float,
        seed: int = 0,
        rank: int = 0,
        seeds: Literal["shared", "per_rank"] = "shared",
        uniform: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.num_local, self.rate, self.seeds = num_local, rate, seeds
        self.num_sample = int(rate * num_local)
        self.generator = torch.Generator().manual_seed(seed + (rank if seeds == "per_rank" else 0))
        self.uniform = uniform or (lambda n: torch.rand(n, generator=self.generator))
        self.last_index: Tensor | None = None

    def sample(self, positives: Tensor) -> Tensor:
        """Local classes that take part, int64 [S] ascending; `positives` are the sorted unique local labels."""
        index = positives
        if positives.numel() <= self.num_sample:
            draw = self.uniform(self.num_local).to(positives.device)
            draw[positives] = 2.0
            index = draw.topk(self.num_sample).indices.sort().values
        self.last_index = index
        return index

    def sample_labels(self, classes: Tensor) -> Tensor:
        """`sample` of the local labels `classes` int64 [B, K] (-1 = none, repeats allowed). Where they cannot outnumber the
        sample, its size is known beforehand and no number has to come from the device."""
        if classes.numel() > self.num_sample:
            return self.sample(classes[classes >= 0].unique())
        draw = torch.cat(
            [self.uniform(self.num_local), torch.zeros(1)]
        )  # the last place takes those that have no class
        if classes.is_cuda:
            draw = draw.pin_memory().to(classes.device, non_blocking=True)
        draw[torch.where(classes >= 0, classes, self.num_local)] = 2.0
        self.last_index = draw[:-1].topk(self.num_sample).indices.sort().values
        return self.last_index

    def get_state(self) -> Tensor:
        """The generator's state, uint8."""
        return self.generator.get_state()

    def set_state(self, state: Tensor) -> None:
        """Go on drawing where `state` was taken."""
        self.generator.set_state(state)
