"""Official checkpoints in several files, one for each rank: joined when they are read, cut again when they are written.

    insightface   checkpoint_gpu_{rank}.pt      backbone, and this rank's rows of the class centres
    CVLface       model.pt, classifier_rank{rank}.pt

Ranks hold consecutive classes, C // W each and the first C % W ranks one more, so files of any number of ranks become one
matrix [C, D], which a facex head reads on any number of ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facex.errors import CheckpointError, ConfigError
from facex.files import atomic_path
from facex.heads.shards import Shard
from facex.layouts import CENTRES
from facex.methods.formats import shorten
from facex.methods.loading import read_state

INSIGHTFACE, CVLFACE = "checkpoint_gpu_{}.pt", "classifier_rank{}.pt"
_CVLFACE_MODEL = "model.pt"
# Layouts that are written as files of several ranks, and the name of their class centres.
LAYOUTS = {"insightface-checkpoint": CENTRES, "cvlface": "partial_fc.weight", "cvlface-fc": "classifier.weight"}


@dataclass(frozen=True)
class RankFiles:
    """The files of one checkpoint in the order of their ranks; `pattern` is INSIGHTFACE or CVLFACE."""

    folder: Path
    pattern: str
    files: tuple[Path, ...]


def find_rank_files(path: Path) -> RankFiles | None:
    """The rank files in a folder, or beside a file that is one of them; None where there are none.

    Raises:
        CheckpointError: files of some ranks are missing.
    """
    folder = path if path.is_dir() else path.parent
    for pattern in (INSIGHTFACE, CVLFACE):
        name = re.compile(re.escape(pattern.format("RANK")).replace("RANK", r"(\d+)"))
        if path.is_file() and not name.fullmatch(path.name):
            continue
        found = {int(m[1]): file for file in folder.iterdir() if (m := name.fullmatch(file.name))}
        if found:
            missing = [pattern.format(rank) for rank in range(max(found) + 1) if rank not in found]
            if missing:
                raise CheckpointError(f"{folder}: files of some ranks are missing: {shorten(missing)}")
            return RankFiles(folder, pattern, tuple(found[rank] for rank in range(len(found))))
    return None


def read_rank_files(found: RankFiles, num_classes: int | None = None) -> dict[str, Tensor]:
    """The whole checkpoint under the names of facex.layouts, class centres joined.

    `num_classes`: what the data set has. CVLface pads the last ranks' classes: the padding is cut off; for others the
    number must be met.

    Raises:
        CheckpointError: a file that cannot be read safely, ranks of different steps, shards that do not follow the rule
            or another number of classes.
    """
    if found.pattern == INSIGHTFACE:
        state, key, shards = _insightface(found)
    else:
        state, key, shards = _cvlface(found)
    _check_rule(found, shards)
    centres = torch.cat(shards)
    if num_classes is not None and num_classes != len(centres):
        padding = len(centres) - num_classes
        if found.pattern != CVLFACE or not 0 < padding < len(shards):
            raise CheckpointError(
                f"{found.folder}: {len(shards)} rank files hold {len(centres)} classes, not {num_classes}; "
                "files of the last ranks may be missing"
            )
        centres = centres[:num_classes].clone()
    return {**state, key: centres}


def write_rank_files(folder: Path, layout: str, state: Mapping[str, Tensor], ranks: int) -> list[Path]:
    """Write `state` (in the names of `layout`) as the files of so many ranks into a new or empty folder."""
    if ranks < 1:
        raise ConfigError(f"--ranks {ranks}: at least 1")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already: name a new folder for the files of the ranks")
    key = LAYOUTS[layout]
    if key not in state:
        raise CheckpointError(f"{layout}: there are no class centres ({key}) to write for each rank")
    whole = {name: value for name, value in state.items() if name != key}
    if layout == "cvlface-fc":
        shards = [state[key]]  # every rank has all of it; the first one's file is what is read
    else:
        parts = (Shard.of(len(state[key]), ranks, rank) for rank in range(ranks))
        shards = [state[key][part.start : part.stop].clone() for part in parts]
    folder.mkdir(parents=True, exist_ok=True)
    return list(_written(folder, layout, key, whole, shards))


def _written(folder: Path, layout: str, key: str, whole: Mapping[str, Tensor], shards: list[Tensor]) -> Iterator[Path]:
    prefix = "state_dict_backbone." if layout == "insightface-checkpoint" else "net."
    backbone = {name[len(prefix) :]: value for name, value in whole.items() if name.startswith(prefix)}
    running = {name: value for name, value in whole.items() if not name.startswith(prefix)}
    if layout != "insightface-checkpoint":
        yield _save(folder / _CVLFACE_MODEL, {prefix + name: value for name, value in backbone.items()})
    for rank, shard in enumerate(shards):
        if layout == "insightface-checkpoint":
            content: dict[str, Any] = {"epoch": 0, "global_step": 0, "state_dict_backbone": backbone}
            yield _save(folder / INSIGHTFACE.format(rank), {**content, "state_dict_softmax_fc": {"weight": shard}})
        else:
            yield _save(folder / CVLFACE.format(rank), {key: shard, **running})


def _save(path: Path, content: dict[str, Any]) -> Path:
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    return path


def _insightface(found: RankFiles) -> tuple[dict[str, Tensor], str, list[Tensor]]:
    state: dict[str, Tensor] = {}
    shards: list[Tensor] = []
    step: tuple[Any, Any] | None = None
    for file in found.files:
        content = _load(file)
        centres, backbone = content.get("state_dict_softmax_fc"), content.get("state_dict_backbone")
        if not isinstance(centres, Mapping) or not isinstance(backbone, Mapping):
            raise CheckpointError(
                f"{file}: not a checkpoint of arcface_torch: state_dict_backbone and state_dict_softmax_fc are wanted, "
                f"it has {shorten(list(content))}"
            )
        shards.append(_only_weight(file, centres, "weight"))
        own = content.get("epoch"), content.get("global_step")
        if step is not None and own != step:
            raise CheckpointError(
                f"{file}: is of epoch and step {own}, {found.files[0].name} of {step}: mixed checkpoints"
            )
        step = own
        if not state:  # ranks differ in BatchNorm's statistics only; rank 0's are what arcface_torch evaluates
            state = {f"state_dict_backbone.{name}": value for name, value in backbone.items()}
    return state, CENTRES, shards


def _cvlface(found: RankFiles) -> tuple[dict[str, Tensor], str, list[Tensor]]:
    model = found.folder / _CVLFACE_MODEL
    state = read_state(model)
    contents = [_load(file) for file in found.files]
    kind = next((k for k in ("partial_fc", "classifier") if f"{k}.weight" in contents[0]), None)
    if kind is None:
        raise CheckpointError(
            f"{found.files[0]}: not a classifier of CVLface (partial_fc.weight or classifier.weight): "
            f"{shorten(list(contents[0]))}"
        )
    running = {f"{kind}.{name}" for name in ("batch_mean", "batch_std")}
    shards = [
        _only_weight(file, {k: v for k, v in content.items() if k not in running}, f"{kind}.weight")
        for file, content in zip(found.files, contents, strict=True)
    ]
    state |= {name: value for name, value in contents[0].items() if name in running}
    return state, f"{kind}.weight", shards if kind == "partial_fc" else shards[:1]


def _load(file: Path) -> dict[str, Any]:
    """A rank's file, memory-mapped: the optimizer's state in it is never read."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{file}: not a checkpoint that can be read safely (weights_only): {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a mapping")
    return content


def _only_weight(file: Path, centres: Mapping[str, Any], key: str) -> Tensor:
    left = [str(name) for name in centres if name != key]
    weight = centres.get(key)
    if left or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise CheckpointError(
            f"{file}: class centres {key} [classes, D] are wanted; "
            f"{'left over: ' + shorten(left) if left else 'missing in the file'}"
        )
    return weight


def _check_rule(found: RankFiles, shards: list[Tensor]) -> None:
    total, dimensions = sum(len(shard) for shard in shards), {shard.shape[1] for shard in shards}
    if len(dimensions) > 1:
        raise CheckpointError(f"{found.folder}: class centres of {sorted(dimensions)} dimensions: mixed checkpoints")
    for rank, shard in enumerate(shards):
        due = Shard.of(total, len(shards), rank).size
        if len(shard) != due:
            raise CheckpointError(
                f"{found.files[rank]}: holds {len(shard)} classes; of {total} on {len(shards)} ranks it should hold {due}. "
                "Files of different checkpoints, or the last ranks' are missing"
            )
