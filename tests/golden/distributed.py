"""Runs a function on W ranks for real: gloo processes that are started once and reused by every case that needs W."""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import tempfile
import traceback
from multiprocessing.connection import Connection
from typing import Any

_pools: dict[int, Pool] = {}


def run_ranks(world_size: int, function: str, *args: Any) -> list[Any]:
    """`module:function(rank, world_size, *args)` on every rank of a gloo group; the results by rank.

    One rank runs in this process, without torch.distributed. Arguments and results are pickled.
    """
    if world_size == 1:
        return [_resolve(function)(0, 1, *args)]
    if world_size not in _pools:
        _pools[world_size] = Pool(world_size)
    return _pools[world_size].call(function, args)


class Pool:
    """W processes in one gloo group, each waiting for calls."""

    def __init__(self, world_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        store = os.path.join(self.folder.name, "store")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(world_size):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world_size, store, theirs), daemon=True)
            process.start()
            self.pipes.append(mine)
            self.processes.append(process)
        atexit.register(self.close)

    def call(self, function: str, args: tuple[Any, ...]) -> list[Any]:
        """Run on every rank; an exception on any of them is raised here with its rank and trace."""
        for pipe in self.pipes:
            pipe.send((function, args))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(300):
                self.close()
                raise RuntimeError(f"rank {rank} of {len(self.pipes)} did not answer {function} within 300 s")
            answers.append(pipe.recv())
        for rank, (ok, value) in enumerate(answers):
            if not ok:
                raise RuntimeError(f"rank {rank} of {len(self.pipes)} failed in {function}:\n{value}")
        return [value for _, value in answers]

    def close(self) -> None:
        """Stop the processes."""
        for process in self.processes:
            if process.is_alive():
                process.terminate()
                process.join(5)
        for size, pool in list(_pools.items()):
            if pool is self:
                del _pools[size]


def _resolve(function: str) -> Any:
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


def _serve(rank: int, world_size: int, store: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, _resolve(function)(rank, world_size, *args)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
