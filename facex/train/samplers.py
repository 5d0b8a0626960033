"""The sample orders of official implementations, as named options beside the default order.

distributed_sampler  torch's DistributedSampler as arcface_torch uses it: generator seed = seed + epoch, wrap-around
                     padding, rank r reads every W-th entry
magface_list         MagFace's distributed loader: each rank reads one contiguous slice of the list whose last line is also
                     the next rank's first, the remainder is dropped, and the order within a slice is the same permutation
                     in every epoch
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from facex.data.order import BatchShape, Indices, ListOrder, Order, ShuffledOrder
from facex.errors import ConfigError

OrderName = Literal["facex", "distributed_sampler", "magface_list"]


def distributed_sampler(
    samples: int, rank: int, world_size: int, seed: int = 0, epoch: int = 0, shuffle: bool = True
) -> Indices:
    """The index list, int64 [ceil(samples / W)], that arcface_torch's DistributedSampler gives `rank` in `epoch`."""
    if shuffle:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(samples, generator=generator).numpy()
    else:
        order = np.arange(samples)
    total = -(-samples // world_size) * world_size
    return np.resize(order, total).astype(np.int64)[rank::world_size]


def magface_slice(lines: int, rank: int, world_size: int) -> Indices:
    """0-based line numbers, int64, that `rank` reads of a list of `lines` lines under MagFace's distributed loader:
    from r * (lines // W) to (r + 1) * (lines // W), the end included, as far as the list goes."""
    if world_size == 1:
        return np.arange(lines, dtype=np.int64)
    share = lines // world_size
    if not share:
        raise ConfigError(f"a list of {lines} lines cannot be cut into slices for {world_size} ranks")
    return np.arange(rank * share, min((rank + 1) * share + 1, lines), dtype=np.int64)


class DistributedSamplerOrder(ListOrder):
    """Batches from `distributed_sampler`'s index lists."""

    def __init__(self, samples: int, shape: BatchShape, seed: int = 0, shuffle: bool = True) -> None:
        self.samples, self.seed, self.shuffle = samples, seed, shuffle
        super().__init__(shape)

    def rank_list(self, rank: int, epoch: int) -> Indices:
        return distributed_sampler(self.samples, rank, self.shape.world_size, self.seed, epoch, self.shuffle)


class MagFaceListOrder(ListOrder):
    """Batches from MagFace's list slices, in the permutation of generator seed 0 that it uses in every epoch. (Its
    last, short batch of an epoch is left out here: ranks with different numbers of batches would wait for each other
    for ever.)"""

    def __init__(self, samples: int, shape: BatchShape) -> None:
        self.samples = samples
        super().__init__(shape)

    def rank_list(self, rank: int, epoch: int) -> Indices:
        lines = magface_slice(self.samples, rank, self.shape.world_size)
        return lines[torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).numpy()]


def build_order(name: OrderName, samples: int, shape: BatchShape, seed: int = 0, drop_last: bool = True) -> Order:
    """The order called `name`, for BatchLoader's `order`."""
    if name == "facex":
        return ShuffledOrder(samples, shape, seed, drop_last)
    if name == "distributed_sampler":
        return DistributedSamplerOrder(samples, shape, seed)
    if name == "magface_list":
        return MagFaceListOrder(samples, shape)
    raise ConfigError(f"unknown order {name!r}; there are facex, distributed_sampler and magface_list")
