"""The Context that a method sees during a step: networks, head, schedule values, random draws, collectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.errors import ConfigError
from facex.methods import Batch, Schedule
from facex.methods.method import HeadScore
from facex.train import distributed
from facex.train.engines import Cadence
from facex.train.launch import Ranks


@dataclass
class Clock:
    """Where a run stands. Shared by all contexts; part of every checkpoint."""

    total_steps: int
    step: int = 0  # applied steps of the network that steps most often
    epoch: int = 0
    batches: int = 0  # global batches consumed


@dataclass
class Shared:
    """What all micro-batches of a run have in common."""

    nets: Mapping[str, Callable[..., Any]]
    head: HeadScore | None
    clock: Clock
    ranks: Ranks
    seed: int
    schedules: dict[str, Schedule] = field(default_factory=dict)
    cadences: Mapping[str, Cadence] = field(default_factory=dict)

    def value(self, schedule: str) -> float:
        """The present value of one of the method's schedules."""
        try:
            wanted = self.schedules[schedule]
        except KeyError:
            known = ", ".join(sorted(self.schedules)) or "none"
            raise ConfigError(f"the method has no schedule '{schedule}' (it has: {known})") from None
        return float(wanted.value(self.clock.step, self.clock.total_steps))


class StepContext:
    """`facex.methods.Context` for one micro-batch."""

    def __init__(self, shared: Shared, batch: Batch | None, training: bool = True) -> None:
        self._shared = shared
        self._batch = batch
        self.nets = shared.nets
        self.head = shared.head
        self.rank = shared.ranks.rank
        self.world_size = shared.ranks.world_size
        self.device = shared.ranks.device
        self.training = training

    @property
    def step(self) -> int:
        """Applied steps so far."""
        return self._shared.clock.step

    @property
    def epoch(self) -> int:
        """The running epoch, from 0."""
        return self._shared.clock.epoch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self._shared.clock.total_steps

    def mean(self, values: Tensor, valid: Tensor | None = None) -> Tensor:
        """W * (local sum) / (valid rows on all ranks); 0, with a gradient of zeros, where no rank has a valid row."""
        if valid is None:
            # all ranks bring equally many rows
            return values.mean()
        count = distributed.all_reduce(valid.sum().to(values.dtype))
        kept = torch.where(valid, values, torch.zeros_like(values))
        return self.world_size * kept.sum() / count.clamp(min=1)

    def value(self, schedule: str) -> float:
        """The present value of one of `Method.schedules()`."""
        return self._shared.value(schedule)

    def due(self, network: str) -> bool:
        """Whether an Update of `network` counts in this global batch (networks.*.every without accumulate)."""
        return self._shared.cadences.get(network, Cadence()).due(self._shared.clock.batches)

    @property
    def draws(self) -> Draws:
        """The random numbers of this micro-batch."""
        if self._batch is None:
            raise ConfigError("this context has no batch, hence no random draws")
        return Draws(self._shared.seed, self._shared.clock.batches, self._batch.position, prefix="method/")

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """float32 [b, *shape] in [0, 1)."""
        return self.draws.uniform(stream, *shape)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """float32 [b, *shape], standard normal."""
        return self.draws.normal(stream, *shape)

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        """Sum, max or mean over ranks, without gradient."""
        return distributed.all_reduce(tensor, op)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks, without gradient."""
        return distributed.all_gather(tensor)
