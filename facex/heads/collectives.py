"""The few collectives that a class-sharded head needs, one code path for one rank and for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

GroupLike = dist.ProcessGroup | Literal["alone"] | None


class Ranks:
    """The ranks that share the classes.

    `group`: a process group; None means the default group when torch.distributed is initialised, else one rank;
    ``"alone"`` means one rank whatever is initialised. Every method is collective and expects equal shapes on all
    ranks.
    """

    def __init__(self, group: GroupLike = None) -> None:
        active = group != "alone" and dist.is_available() and dist.is_initialized()
        self.group: dist.ProcessGroup | None = None
        self.rank, self.size = 0, 1
        if active:
            self.group = dist.group.WORLD if group is None else group  # type: ignore[assignment]
            self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)

    def gather(self, rows: Tensor) -> Tensor:
        """[b, ...] of every rank -> [W * b, ...] in the order of the ranks, without gradient."""
        rows = rows.detach().contiguous()
        if self.size == 1 or rows.shape[0] == 0:
            return rows
        out = rows.new_empty((self.size * rows.shape[0], *rows.shape[1:]))
        dist.all_gather(list(out.chunk(self.size)), rows, group=self.group)
        return out

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, a new tensor."""
        return self.sum_later(values)()

    def sum_later(self, values: Tensor) -> Callable[[], Tensor]:
        """Begin `sum`; the function returned waits for it and gives the result."""
        values = values.detach().clone(memory_format=torch.contiguous_format)
        work = dist.all_reduce(values, group=self.group, async_op=True) if self.size > 1 else None

        def result() -> Tensor:
            if work is not None:
                work.wait()
            return values

        return result

    def scatter_sum(self, rows: Tensor) -> Tensor:
        """[W * b, ...] partial sums of every rank -> the sum over ranks of this rank's b rows (a reduce-scatter)."""
        if self.size == 1:
            return rows
        b = rows.shape[0] // self.size
        if dist.get_backend(self.group) == "gloo":  # has no reduce-scatter worth the name
            return self.sum(rows)[self.rank * b : (self.rank + 1) * b].clone()
        out = rows.new_empty((b, *rows.shape[1:]))
        dist.reduce_scatter_tensor(out, rows.contiguous(), group=self.group)
        return out

    def mine(self, rows: Tensor) -> Tensor:
        """This rank's rows of a gathered [W * b, ...] tensor."""
        b = rows.shape[0] // self.size
        return rows[self.rank * b : (self.rank + 1) * b]

    def gather_objects(self, value: object) -> list[object]:
        """One small Python object of every rank (checkpoint bookkeeping)."""
        if self.size == 1:
            return [value]
        out: list[object] = [None] * self.size
        dist.all_gather_object(out, value, group=self.group)
        return out

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.group)
