"""Sums over ranks for the goldens of several: a gloo group of processes, each with the rows of its rank."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from facex.train import distributed


def rank_means(sums: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """The mean over all rows as each rank computes it by the trainer's collective: its sum [K] and its number of
    rows."""
    rows = [torch.cat([s, s.new_tensor([float(c)])]) for s, c in zip(sums, counts, strict=True)]
    if len(rows) == 1:
        return [rows[0][:-1] / rows[0][-1]]
    with tempfile.TemporaryDirectory() as folder:
        out = mp.get_context("spawn").SimpleQueue()
        mp.spawn(_reduce, (len(rows), f"file://{folder}/store", torch.stack(rows), out), nprocs=len(rows))
        found = dict(out.get() for _ in rows)
    return [torch.tensor(found[rank]) for rank in range(len(rows))]


def _reduce(rank: int, world: int, store: str, rows: Tensor, out: Any) -> None:
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    total = distributed.all_reduce(rows[rank])
    out.put((rank, (total[:-1] / total[-1]).tolist()))
    dist.barrier()
    dist.destroy_process_group()
