"""Which classes a rank owns, and class centres that start the same on every number of ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Init = Literal["normal", "unit", "xavier"]
_BLOCK = 4096  # classes that share one generator


@dataclass(frozen=True)
class Shard:
    """Classes start .. stop - 1 of `num_classes`."""

    start: int
    stop: int
    num_classes: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @staticmethod
    def of(num_classes: int, world_size: int, rank: int) -> Shard:
        """The published rule: C // W classes each, the first C % W ranks one more."""
        base, extra = divmod(num_classes, world_size)
        start = base * rank + min(rank, extra)
        return Shard(start, start + base + (rank < extra), num_classes)


def initialise(weight: Tensor, shard: Shard, init: Init, seed: int) -> None:
    """Fill `weight` [shard.size, D] in place with the rows that a single rank would draw for these classes.

    ``normal``: N(0, 0.01^2); ``unit``: uniform(-1, 1) scaled to unit length (MagFace); ``xavier``: Xavier uniform of
    the whole [C, D] matrix.
    """
    dim = weight.shape[1]
    for block in range(shard.start // _BLOCK, -(-shard.stop // _BLOCK)):
        first, last = block * _BLOCK, min((block + 1) * _BLOCK, shard.num_classes)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + block) % (2**63))
        rows = _draw(last - first, dim, shard.num_classes, init, generator)
        low, high = max(first, shard.start), min(last, shard.stop)
        weight[low - shard.start : high - shard.start].copy_(rows[low - first : high - first])


def _draw(rows: int, dim: int, classes: int, init: Init, generator: torch.Generator) -> Tensor:
    if init == "normal":
        return torch.randn(rows, dim, generator=generator) * 0.01
    uniform = torch.rand(rows, dim, generator=generator) * 2 - 1
    if init == "unit":
        return torch.nn.functional.normalize(uniform)
    return uniform * math.sqrt(6 / (classes + dim))
