"""The files of a checkpoint folder: written with clear errors, listed with sizes and checksums, read without trust.

Nothing here unpickles freely: tensors are safetensors, `.pt` files are read with `weights_only=True`, and DeepSpeed's
files (which DeepSpeed itself unpickles without an allow-list) are first read under one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from facex.errors import CheckpointError

MANIFEST = "manifest"
# what torch's writers say when the disk is full; other RuntimeErrors are not about files
_WRITE_FAULTS = ("PytorchStreamWriter", "file write", "unexpected pos", "No space", "write failed")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Turn a failed write (disk full, quota, no permission) into a CheckpointError that names the file."""
    try:
        yield path
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in _WRITE_FAULTS):
            raise
        name = getattr(error, "filename", None) or path
        raise CheckpointError(f"could not write {name}: {error}{_free_space(path)}") from error


def _free_space(path: Path) -> str:
    folder = next(p for p in [path, *path.parents] if p.exists())
    with contextlib.suppress(OSError):
        return f" ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB free there)"
    return ""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, each as a copy on the CPU (shared storage is written once per name)."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with writing(path):
        save_file(plain, path, dict(metadata or {}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    with reading(path):
        return load_file(path)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Turn whatever a missing, cut or altered file does to a reader into a CheckpointError that names the file."""
    try:
        yield path
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete; use another one") from error
    except Exception as error:
        raise CheckpointError(f"{path} is damaged and cannot be read ({error}); use another checkpoint") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    with reading(path):
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value


def read_pickle(path: Path, allowed: tuple[type, ...] = ()) -> Any:
    """A `.pt` file of tensors and plain values, plus objects of the `allowed` classes; anything else is refused."""
    with reading(path), torch.serialization.safe_globals(list(allowed)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            # torch's own message advises to switch the protection off
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = f"it asks for {found.group(1)}" if found else "it does not parse"
            raise CheckpointError(
                f"{path} is refused: it should hold tensors and plain values, but {what}, which could run foreign code"
            ) from None


def engine_classes() -> tuple[type, ...]:
    """The classes that DeepSpeed puts into its checkpoints beside tensors and plain values."""
    from deepspeed.checkpoint import SubparamShape
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return fragment_address, LossScaler, DynamicLossScaler, ZeroStageEnum, SubparamShape


def check_engine_pickles(folder: Path) -> None:
    """Refuse DeepSpeed files in `folder` that hold anything but tensors, plain values and DeepSpeed's own records."""
    for path in sorted(folder.rglob("*.pt")):
        read_pickle(path, engine_classes())


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as f:
        while block := f.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def listed_files(folder: Path) -> list[str]:
    """Relative names of the files below `folder`, without the manifest's own."""
    names = (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return sorted(n for n in names if n.split(os.sep)[0] != MANIFEST)


def write_manifest(folder: Path, rank: int, world_size: int) -> None:
    """Write this rank's share of the list of sizes and checksums: every W-th file."""
    share = listed_files(folder)[rank::world_size]
    entries = {n: {"size": (folder / n).stat().st_size, "crc32": checksum(folder / n)} for n in share}
    target = folder / MANIFEST / f"rank_{rank}.json"
    with writing(target):
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps({"world_size": world_size, "files": entries}), encoding="utf-8")


def verify(folder: Path, checksums: bool = True) -> None:
    """Compare a checkpoint with its manifest; CheckpointError names the first file that is missing, cut or altered."""
    first = read_json(folder / MANIFEST / "rank_0.json")
    for rank in range(int(first["world_size"])):
        for name, expected in read_json(folder / MANIFEST / f"rank_{rank}.json")["files"].items():
            path = folder / name
            with reading(path):
                size = path.stat().st_size
            if size != expected["size"]:
                raise CheckpointError(f"{path} has {size} bytes instead of {expected['size']}; use another checkpoint")
            if checksums and checksum(path) != expected["crc32"]:
                raise CheckpointError(f"{path} is damaged (wrong checksum); use another checkpoint")


def flush_to_disk(folder: Path) -> None:
    """fsync every file below `folder`, and the folders, so that a rename publishes data that is really there."""
    for path in [*folder.rglob("*"), folder]:
        with writing(path):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def random_state() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global generators, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, numbers, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(numbers), gauss_next],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back to `random_state()`. GPU states only where there are as many GPUs."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
