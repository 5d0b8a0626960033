"""Collectives as the trainer uses them: without gradient, and nothing to do for one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from facex.errors import FacexError, TrainingError

T = TypeVar("T")

_LOST = ("connection", "timed out", "timeout", "broken pipe", "gloo", "nccl", "peer", "recvbytes", "sendbytes", "store")


def world_size() -> int:
    """Number of ranks; 1 before a process group exists."""
    return dist.get_world_size() if dist.is_initialized() else 1


@torch.no_grad()
def all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
    """Sum, max, min or mean of `tensor` over ranks, as a new tensor."""
    out = tensor.detach().clone()
    if world_size() == 1:
        return out
    kind = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}[op]
    dist.all_reduce(out, op=kind)
    return out / world_size() if op == "mean" else out


@torch.no_grad()
def all_gather(tensor: Tensor) -> Tensor:
    """Rows of all ranks, concatenated in the order of the ranks; every rank brings as many."""
    if world_size() == 1:
        return tensor.detach().clone()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather_objects(value: Any) -> list[Any]:
    """One small Python object of every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def together(part: Callable[[], T], what: str) -> T:
    """Run `part` on every rank; when it fails on any, every rank raises, naming it. So nobody waits in a collective for a
    rank that has left. `part` itself must hold no collective."""
    error: Exception | None = None
    value: Any = None
    try:
        value = part()
    except Exception as caught:
        error = caught
    texts = gather_objects(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    failed = [(rank, text) for rank, text in enumerate(texts) if text is not None]
    if failed:
        raise TrainingError(f"{what} failed on rank {failed[0][0]}: {failed[0][1]}")
    return cast(T, value)


@contextmanager
def lost_rank_is_an_error(rank: int, where: Callable[[], str]) -> Iterator[None]:
    """Turn the errors that a collective gives when another rank died into one sentence."""
    try:
        yield
    except FacexError:
        raise
    except RuntimeError as error:
        text = str(error).lower()
        if world_size() == 1 or not any(word in text for word in _LOST):
            raise
        raise TrainingError(
            f"rank {rank} lost contact with another rank {where()} (it was killed, ran out of memory, or failed: see its own "
            f"output). The last checkpoint is untouched: start again with --trainer.resume auto. [{error}]"
        ) from error
