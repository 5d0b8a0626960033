"""Checkpoints of a head: class-indexed safetensors shards that any number of ranks can read.

One file a rank, `head-00000-of-00002.safetensors`, holds the rank's rows of the logical tensors (`weight` [C, D],
`bias` [C], optimizer moments), the margin's buffers (`margin.*`) and the sampler's generator (`sampler`). Its metadata
say which classes the rows are.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from facex.errors import CheckpointError
from facex.files import atomic_path

if TYPE_CHECKING:
    from facex.heads.margin_head import MarginHead

FORMAT = "facex-head-1"
_CHUNK = 65536  # classes read at a time
_NUMBERS = ("class_start", "class_stop", "num_classes", "embedding_size", "steps")
_NAME = re.compile(r"head-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True)
class _File:
    path: Path
    start: int
    stop: int
    metadata: dict[str, str]
    keys: frozenset[str]


def logical_state(head: MarginHead) -> dict[str, Any]:
    """This rank's rows of every logical tensor by name, with `class_start`, `class_stop`, `num_classes` and `steps`."""
    optimizer = head.optimizer
    return {
        **_row_tensors(head, with_moments=True),
        "class_start": head.shard.start,
        "class_stop": head.shard.stop,
        "num_classes": head.num_classes,
        "steps": optimizer.steps if optimizer else 0,
    }


def save_shard(head: MarginHead, directory: str | os.PathLike[str]) -> None:
    """Write this rank's file into `directory` (atomically; no barrier: the caller has one before it publishes)."""
    folder, ranks = Path(directory), head.ranks
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in _row_tensors(head, with_moments=True).items()}
    tensors |= {f"margin.{name}": value.detach().cpu().clone() for name, value in head.margin.named_buffers()}
    tensors["sampler"] = head.sampler.get_state()
    optimizer = head.optimizer
    metadata = {
        "format": FORMAT,
        "class_start": str(head.shard.start),
        "class_stop": str(head.shard.stop),
        "num_classes": str(head.num_classes),
        "embedding_size": str(head.embedding_size),
        "margin": type(head.margin).__name__,
        "optimizer": optimizer.options.name if optimizer else "none",
        "steps": str(optimizer.steps if optimizer else 0),
        "rounding_seed": str(optimizer.options.rounding_seed if optimizer else 0),
    }
    with atomic_path(folder / f"head-{ranks.rank:05d}-of-{ranks.size:05d}.safetensors") as temporary:
        save_file(tensors, temporary, metadata)


def load_shard(head: MarginHead, directory: str | os.PathLike[str], optimizer: bool) -> None:
    """Fill this rank's shard from the files in `directory`; strict: CheckpointError names what does not fit."""
    files = read_headers(directory)
    _check(head, files, optimizer)
    for name, value in _row_tensors(head, with_moments=optimizer).items():
        _fill(value, name, head, files)
    own = files[head.ranks.rank] if len(files) == head.ranks.size else files[0]
    with safe_open(own.path, "pt") as file:
        for name, buffer in head.margin.named_buffers():
            if f"margin.{name}" not in own.keys:
                raise CheckpointError(
                    f"{own.path}: no margin buffer {name!r}; it was saved with {own.metadata['margin']}"
                )
            buffer.copy_(file.get_tensor(f"margin.{name}"))
        if optimizer:
            if "sampler" not in own.keys:
                raise CheckpointError(f"{own.path}: no state of the class sampler: a damaged or foreign file")
            head.sampler.set_state(file.get_tensor("sampler"))
    if optimizer and head.optimizer is not None:
        head.optimizer.steps = int(own.metadata["steps"])
        seed = own.metadata.get("rounding_seed", "")  # a shard of an earlier version has none, and rounds nothing
        if seed.isdecimal():
            head.optimizer.options.rounding_seed = int(seed)
    head.window.clear()


def read_headers(directory: str | os.PathLike[str]) -> list[_File]:
    """The shard files of a directory in the order of their classes, checked to cover every class once."""
    folder = Path(directory)
    found = sorted(path for path in folder.glob("head-*.safetensors") if _NAME.fullmatch(path.name))
    if not found:
        raise CheckpointError(f"{folder}: no head shards (head-*-of-*.safetensors) here")
    files = [_read_header(path) for path in found]
    expected, classes = 0, files[0].metadata["num_classes"]
    for file in files:
        if file.start != expected or file.metadata["num_classes"] != classes:
            raise CheckpointError(
                f"{file.path}: holds classes {file.start}..{file.stop - 1} of {file.metadata['num_classes']} "
                f"where {expected} should follow; the shards in {folder} are incomplete or of different checkpoints"
            )
        expected = file.stop
    if expected != int(classes):
        raise CheckpointError(f"{folder}: classes {expected}..{int(classes) - 1} of {classes} are missing")
    return files


def _read_header(path: Path) -> _File:
    try:
        with safe_open(path, "pt") as file:
            metadata, keys = file.metadata() or {}, frozenset(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a head shard of this version (format {metadata.get('format')!r}, expected {FORMAT!r})"
        )
    missing = [key for key in ("margin", "optimizer") if key not in metadata]
    missing += [key for key in _NUMBERS if not metadata.get(key, "").isdecimal()]
    if missing:
        raise CheckpointError(f"{path}: its metadata lack a usable {', '.join(missing)}: a damaged or foreign file")
    return _File(path, int(metadata["class_start"]), int(metadata["class_stop"]), metadata, keys)


def _check(head: MarginHead, files: list[_File], optimizer: bool) -> None:
    for file in files:
        for key, mine in (("num_classes", head.num_classes), ("embedding_size", head.embedding_size)):
            if int(file.metadata[key]) != mine:
                raise CheckpointError(f"{file.path}: {key} is {file.metadata[key]}, this head has {mine}")
        if optimizer and head.optimizer and file.metadata["optimizer"] != head.optimizer.options.name:
            raise CheckpointError(
                f"{file.path}: holds moments of optimizer {file.metadata['optimizer']!r}, this head has "
                f"{head.optimizer.options.name!r}; load the weights alone or keep the optimizer"
            )


def _row_tensors(head: MarginHead, with_moments: bool) -> dict[str, Tensor]:
    tensors = {"weight": head.weight.data}
    if head.bias is not None:
        tensors["bias"] = head.bias.data
    if with_moments and head.optimizer is not None:
        tensors |= head.optimizer.moments
    return tensors


def _fill(value: Tensor, name: str, head: MarginHead, files: list[_File]) -> None:
    start, stop = head.shard.start, head.shard.stop
    for file in files:
        low, high = max(start, file.start), min(stop, file.stop)
        if low >= high:
            continue
        if name not in file.keys:
            raise CheckpointError(f"{file.path}: no tensor {name!r}; it has {', '.join(sorted(file.keys))}")
        with safe_open(file.path, "pt") as opened:
            stored = opened.get_slice(name)
            expected = [file.stop - file.start, *value.shape[1:]]
            if list(stored.get_shape()) != expected:
                raise CheckpointError(f"{file.path}: {name!r} has shape {stored.get_shape()}, expected {expected}")
            for first in range(low, high, _CHUNK):  # no second copy of a large shard in memory
                last = min(first + _CHUNK, high)
                value[first - start : last - start].copy_(stored[first - file.start : last - file.start])
