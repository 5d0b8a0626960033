"""Work shared by the ranks of torch.distributed: each takes a share, results are equal on all, errors reach all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from facex.errors import FacexError


@dataclass(frozen=True)
class Share:
    """This rank's part `first`..`last` - 1 of `total` items; every rank's part has at most `size`."""

    total: int
    size: int
    first: int
    last: int
    world: int

    @staticmethod
    def of(total: int) -> Share:
        """The share of the calling rank; all of it without torch.distributed."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)
        size = math.ceil(total / world)
        return Share(total, size, min(rank * size, total), min((rank + 1) * size, total), world)

    def gather(self, rows: Tensor, device: torch.device | str) -> Tensor:
        """Rows of all ranks in order, on the CPU; each rank's part is padded to `size` rows for the way."""
        if self.world == 1:
            return rows
        padded = rows.new_zeros(self.size, *rows.shape[1:])
        padded[: len(rows)] = rows
        if dist.get_backend() == "nccl":
            padded = padded.to(device)
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat(parts).cpu()[: self.total]


def distributed() -> bool:
    """Whether there are other ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def raise_everywhere(error: FacexError | None, world: int) -> None:
    """Raise this rank's error, or name another rank's, so that nobody waits for a rank that left."""
    if world == 1:
        if error is not None:
            raise error
        return
    texts: list[Any] = [None] * world
    dist.all_gather_object(texts, None if error is None else str(error))
    if error is None:
        error = next((FacexError(f"rank {rank}: {text}") for rank, text in enumerate(texts) if text is not None), None)
    if error is not None:
        error.everywhere = True
        raise error


def sum_everywhere(values: Tensor, device: torch.device | str) -> Tensor:
    """The sum over ranks, on the CPU; a new tensor."""
    if not distributed():
        return values.clone()
    out = values.to(device) if dist.get_backend() == "nccl" else values.clone()
    dist.all_reduce(out)
    return out.cpu()
