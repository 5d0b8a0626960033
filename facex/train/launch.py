"""How a rank comes to life: launcher variables, device, process group. No MPI, no GPU needed."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from facex.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0


def start(timeout_seconds: float = 600.0) -> Ranks:
    """Join the process group that the launcher (deepspeed, torchrun) describes, or make one of a single process.

    Without a GPU, DeepSpeed's CPU accelerator and gloo are used. Calling it again returns the same ranks.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _single_process_defaults()
    rank, world, local = (int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _meet(rank, world, "nccl" if device.type == "cuda" else "gloo", timeout_seconds)
    _join_deepspeed()
    return Ranks(dist.get_rank(), dist.get_world_size(), local, device)


def _meet(rank: int, world: int, backend: str, timeout_seconds: float) -> None:
    where = f"{os.environ.get('MASTER_ADDR', '(MASTER_ADDR is not set)')}:{os.environ.get('MASTER_PORT', '(MASTER_PORT is not set)')}"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds), rank=rank, world_size=world)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"rank {rank} could not meet the other {world - 1} rank(s) at {where} within {timeout_seconds:g} s: were all started, "
            f"can they reach that address, is the port free? [{error}]"
        ) from error


def cores_per_rank() -> int:
    """CPU cores of this machine for each of its ranks (the deepspeed launcher and torchrun say how many there are)."""
    local = int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, len(os.sched_getaffinity(0)) // local)


def share_cores(ranks: Ranks, micro_batches: int) -> None:
    """On the CPU, compute a micro-batch with the same number of threads however the `micro_batches` of a global batch are
    spread over ranks and accumulation: threads cut sums apart, a network amplifies their rounding, and one rank would
    not give the losses of many. OMP_NUM_THREADS overrules it."""
    if ranks.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // micro_batches))


def _single_process_defaults() -> None:
    """Without a launcher: one rank on a free port of the loopback address."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        os.environ.setdefault("LOCAL_RANK", "0")
        return
    if int(os.environ.get("WORLD_SIZE", "1")) != 1:
        raise ConfigError("WORLD_SIZE is set but RANK is not; start with `deepspeed`, `torchrun`, or unset WORLD_SIZE")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _join_deepspeed() -> None:
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)  # it warns of what facex has decided (an "untested" optimizer), on standard output
    # DeepSpeed calls what torch has renamed
    warnings.filterwarnings("ignore", message=".*is deprecated. Please use.*", module="torch.distributed")
    if deepspeed.comm.is_initialized():
        return
    with _no_shared_memory_op():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


@contextlib.contextmanager
def _no_shared_memory_op() -> Iterator[None]:
    """On the CPU, DeepSpeed compiles a shared-memory all-reduce at the first start; training never calls it (it serves
    inference only), and the probe for it starts a dozen compilers. Tell it that there is none."""
    import deepspeed.ops

    if torch.cuda.is_available() or "__compatible_ops__" in vars(deepspeed.ops):
        yield
        return
    vars(deepspeed.ops)["__compatible_ops__"] = defaultdict(bool)
    try:
        yield
    finally:
        del vars(deepspeed.ops)["__compatible_ops__"]


def stop() -> None:
    """Leave the process group, so that a process ends without warnings."""
    if dist.is_initialized():
        dist.destroy_process_group()
