"""In which order samples are trained on, and which rank reads which of them.

The default order is a pure function of (seed, epoch). A global batch is cut into micro-batches; at accumulation step
a, rank r of W takes micro-batch a*W + r. So W ranks, and one rank with W times the accumulation, see the same
micro-batches. The orders of the official implementations (`facex.train.samplers`) fit the same interface; there each
rank has its own index list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from facex.errors import ConfigError

Indices = np.ndarray  # int64 [n]


def permutation(n: int, seed: int, epoch: int) -> Indices:
    """A uniform permutation of 0..n-1, int64 [n], the same for equal (n, seed, epoch) everywhere and for ever.

    It comes from numpy's legacy generator, whose stream is frozen; newer generators may change between versions.
    """
    words = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, epoch & 0xFFFFFFFF]
    order = np.arange(n, dtype=np.int64)
    np.random.RandomState(words).shuffle(order)
    return order


@dataclass(frozen=True)
class BatchShape:
    """How a global batch is cut: global_batch = micro_batch * accumulation * world_size."""

    global_batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if min(self.global_batch, self.micro_batch, self.world_size) < 1 or not 0 <= self.rank < self.world_size:
            raise ConfigError(f"impossible batch shape: {self}")
        if self.global_batch % (self.micro_batch * self.world_size):
            raise ConfigError(
                f"global batch {self.global_batch} is not a multiple of micro batch {self.micro_batch} x "
                f"{self.world_size} ranks = {self.micro_batch * self.world_size}; change one of them"
            )

    @property
    def accumulation(self) -> int:
        """Micro-batches of one rank in a global batch."""
        return self.global_batch // (self.micro_batch * self.world_size)

    def positions(self, accumulation_step: int) -> Indices:
        """Places in the global batch of this rank's micro-batch, int64 [micro_batch]."""
        first = (accumulation_step * self.world_size + self.rank) * self.micro_batch
        return np.arange(first, first + self.micro_batch, dtype=np.int64)


class Order(ABC):
    """Which samples make up each global batch of each epoch, for this rank."""

    shape: BatchShape
    batches_per_epoch: int

    @abstractmethod
    def global_batch(self, epoch: int, number: int) -> list[tuple[Indices, Indices]]:
        """This rank's micro-batches of one global batch: (sample numbers, positions in the global batch), int64."""


class ShuffledOrder(Order):
    """The default order: a permutation a (seed, epoch), global batches one after the other.

    With `drop_last` the rest of an epoch that fills no global batch is left out (another one each epoch). Without it
    the last batch is filled up from the front of the epoch's permutation, so that every rank has work and every batch
    its full size.
    """

    def __init__(
        self, samples: int, shape: BatchShape, seed: int = 0, drop_last: bool = True, shuffle: bool = True
    ) -> None:
        if samples < 1:
            raise ConfigError("the data set is empty: there is nothing to train on")
        if drop_last and samples < shape.global_batch:
            raise ConfigError(
                f"the data set has {samples} samples, fewer than one global batch of {shape.global_batch}: lower the "
                "global batch, or set drop_last to false (samples are then repeated within the batch)"
            )
        self.samples, self.shape, self.seed, self.shuffle = samples, shape, seed, shuffle
        whole, rest = divmod(samples, shape.global_batch)
        self.batches_per_epoch = whole if drop_last or not rest else whole + 1
        self._cached: tuple[int, Indices] = (-1, np.empty(0, np.int64))

    def _epoch_order(self, epoch: int) -> Indices:
        if self._cached[0] != epoch:
            order = permutation(self.samples, self.seed, epoch) if self.shuffle else np.arange(self.samples)
            self._cached = (epoch, order)
        return self._cached[1]

    def global_batch(self, epoch: int, number: int) -> list[tuple[Indices, Indices]]:
        if not 0 <= number < self.batches_per_epoch:
            raise ConfigError(f"batch {number} of an epoch of {self.batches_per_epoch} batches")
        order = self._epoch_order(epoch)
        start = number * self.shape.global_batch
        parts = []
        for step in range(self.shape.accumulation):
            positions = self.shape.positions(step)
            parts.append((order[(start + positions) % self.samples], positions))
        return parts


class ListOrder(Order):
    """An order made of one index list a rank and epoch, as samplers of official implementations give it: rank r's
    share of global batch b is the b-th run of global_batch / W entries of its own list."""

    def __init__(self, shape: BatchShape) -> None:
        self.shape = shape
        share = shape.global_batch // shape.world_size
        self._share = share
        # every rank stops with the shortest list: otherwise one rank would wait for ever for the others
        shortest = min(len(self.rank_list(rank, 0)) for rank in range(shape.world_size))
        self.batches_per_epoch = shortest // share
        if self.batches_per_epoch < 1:
            raise ConfigError(
                f"a rank has {shortest} samples an epoch, fewer than its share of a global batch ({share})"
            )
        self._cached: tuple[int, Indices] = (-1, np.empty(0, np.int64))

    @abstractmethod
    def rank_list(self, rank: int, epoch: int) -> Indices:
        """All sample numbers that `rank` reads in `epoch`, int64 [n], in order."""

    def global_batch(self, epoch: int, number: int) -> list[tuple[Indices, Indices]]:
        if self._cached[0] != epoch:
            self._cached = (epoch, self.rank_list(self.shape.rank, epoch))
        micro = self.shape.micro_batch
        start = number * self._share
        return [
            (self._cached[1][start + step * micro : start + (step + 1) * micro], self.shape.positions(step))
            for step in range(self.shape.accumulation)
        ]
