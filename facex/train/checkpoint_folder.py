"""A run's checkpoint folders as they lie on disk: finding, opening and describing them.

RUN/checkpoints/latest             name of the newest complete checkpoint
RUN/checkpoints/step_00000123/
    meta.json                      method and its options, input, classes, world size, counters, versions
    method.safetensors             the networks' plain weights and buffers (facex.train.method_state)
    engine_<network>/              DeepSpeed's files: optimizer and weights, per rank
    head/                          class-indexed shards of the head (facex.heads.state)
    rank_state/rank_<k>.pt         random generators of every rank
    manifest/rank_<k>.json         sizes and checksums
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from facex.errors import CheckpointError
from facex.train import checkpoint_files as files

FORMAT = 1
ENGINE_TAG = "engine"
UNIVERSAL_TAG = "engine_universal"
_NAME = re.compile(r"step_(\d{8,})(_world\d+)?")


def step_name(step: int) -> str:
    """Folder name of the checkpoint after `step` global batches."""
    return f"step_{step:08d}"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder and its meta.json."""

    path: Path
    meta: dict[str, Any]

    @property
    def head_dir(self) -> Path:
        """Folder of the head's shards."""
        return self.path / "head"

    @property
    def engine_tag(self) -> str:
        """DeepSpeed tag of the engines' files; the universal one after `facex convert --world-size`."""
        return UNIVERSAL_TAG if self.meta.get("universal") else ENGINE_TAG

    def engine_dir(self, network: str) -> Path:
        """Folder of a network's engine, for DeepSpeed's load_checkpoint."""
        return self.path / f"engine_{network}"

    def describe(self) -> str:
        """Method and networks in words, for messages."""
        networks = "; ".join(f"{k}: {v}" for k, v in self.meta.get("networks", {}).items())
        return f"{self.meta.get('method', {}).get('class_path', 'unknown method')} ({networks})"

    def method_state(self) -> dict[str, Tensor]:
        """The tensors of method.safetensors."""
        return files.read_tensors(self.path / "method.safetensors")

    def rank_state(self, rank: int) -> dict[str, Any] | None:
        """`{"random": ..., **extra}` of a rank; None where the checkpoint has fewer ranks."""
        path = self.path / "rank_state" / f"rank_{rank}.pt"
        return files.read_pickle(path) if path.exists() else None

    def check_world(self, world_size: int, zero: int) -> None:
        """Refuse to resume sharded optimizer state on another number of ranks, naming the command that helps."""
        theirs, stage = int(self.meta["world_size"]), int(self.meta.get("zero", 0))
        if self.meta.get("universal"):
            if zero not in (1, 2):
                raise CheckpointError(
                    f"{self.path} was converted from trainer.zero={stage}: resume it with 1 or 2, not {zero}"
                )
            stage = 0
        if stage != zero and (stage or zero) and not self.meta.get("universal"):
            raise CheckpointError(f"{self.path} was written with trainer.zero={stage}, not {zero}; resume with {stage}")
        if stage and theirs != world_size:
            run = self.path.parent.parent
            if stage == 3:
                raise CheckpointError(f"{self.path} was written by {theirs} ranks with ZeRO-3: resume it on {theirs}")
            raise CheckpointError(
                f"{self.path} was written by {theirs} ranks with ZeRO-{stage} and cannot be resumed on {world_size}; "
                f"convert it first: facex convert --checkpoint {run} --world-size {world_size}"
            )


def step_of(name: str) -> int:
    """Step number of a checkpoint's folder name; -1 for other names."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else -1


def names(folder: Path) -> list[str]:
    """Names of the complete checkpoints in RUN/checkpoints, oldest first."""
    found = [p.name for p in folder.glob("step_*") if step_of(p.name) >= 0 and (p / "meta.json").is_file()]
    return sorted(found, key=lambda n: (step_of(n), n))


def latest_name(folder: Path) -> str | None:
    """The newest complete checkpoint: what `latest` says, or the highest step where it is missing."""
    pointer, found = folder / "latest", names(folder)
    if pointer.is_file():
        name = pointer.read_text(encoding="utf-8").strip()
        if name in found:
            return name
    return found[-1] if found else None


def best_names(folder: Path) -> list[str]:
    """Checkpoints with a score, best first; of equal ones the earlier first."""
    scores = {n: files.read_json(folder / n / "meta.json").get("score") for n in names(folder)}
    rated = {n: float(score) for n, score in scores.items() if score is not None}
    return sorted(rated, key=lambda n: (-rated[n], step_of(n)))


def choose(folder: Path, which: str | int = "last") -> Path:
    """The checkpoint `last`, `best`, of a step number, or of a folder name, in RUN/checkpoints."""
    found = names(folder)
    if not found:
        raise CheckpointError(f"{folder} holds no complete checkpoint")
    if which == "last":
        return folder / (latest_name(folder) or found[-1])
    if which == "best":
        best = best_names(folder)
        if not best:
            raise CheckpointError(
                f"no checkpoint in {folder} has a score (evaluation.selection was not set); take the last one"
            )
        return folder / best[0]
    wanted = step_name(int(which)) if str(which).isdigit() else str(which)
    if wanted not in found:
        raise CheckpointError(f"{folder} has no checkpoint {which}; there are {', '.join(found)}")
    return folder / wanted


def open_checkpoint(path: str | os.PathLike[str], which: str | int = "last", verify: bool = True) -> Checkpoint:
    """Open a checkpoint and compare it with its manifest: `path` is a run folder (then `which` chooses) or a
    checkpoint."""
    folder = Path(path)
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist; a run folder or a checkpoint folder was expected")
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file, not a run or checkpoint folder; init_from takes official files")
    if not (folder / "meta.json").is_file():
        folder = choose(folder / "checkpoints", which)
    meta = files.read_json(folder / "meta.json")
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has checkpoint format {meta.get('format')}; this facex reads format {FORMAT}")
    if verify:
        files.verify(folder)
    return Checkpoint(folder, meta)
