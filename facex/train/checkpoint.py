"""Writing checkpoints: one folder each (`facex.train.checkpoint_folder` shows what is in it), all of it or nothing.

A checkpoint is written under a temporary name by all ranks, renamed by rank 0 when everything is there, and only then
named in `latest`; older ones are removed last. So a crash or a full disk at any moment leaves the last good one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facex import __version__
from facex.errors import CheckpointError
from facex.files import write_text
from facex.train import checkpoint_files as files
from facex.train.checkpoint_folder import (
    ENGINE_TAG,
    FORMAT,
    Checkpoint,
    best_names,
    choose,
    latest_name,
    names,
    open_checkpoint,
    step_name,
    step_of,
)
from facex.train.distributed import gather_objects
from facex.train.load_run import LoadedRun, load_run

__all__ = ["ENGINE_TAG", "Checkpoint", "CheckpointManager", "LoadedRun", "load_run", "open_checkpoint"]


class CheckpointManager:
    """Writes and finds the checkpoints of one run. Every rank makes one and calls `save` at the same step."""

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        keep_last: int = 2,
        keep_best: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.folder = Path(run_dir) / "checkpoints"
        self.keep_last, self.keep_best = keep_last, keep_best
        self.rank, self.world_size = rank, world_size

    def save(
        self,
        step: int,
        *,
        meta: Mapping[str, Any],
        method_state: Mapping[str, Tensor],
        save_engines: Callable[[Path], None] | None = None,
        save_head: Callable[[Path], None] | None = None,
        rank_state: Mapping[str, Any] | None = None,
        score: float | None = None,
    ) -> Path:
        """Write the checkpoint after `step` global batches and return its folder. All ranks call it.

        `method_state` is written by rank 0 alone. `save_engines(folder)` makes `folder/engine_<name>` for every
        network (DeepSpeed's save_checkpoint with ENGINE_TAG), `save_head(folder/head)` this rank's shard. `score`
        (higher is better) makes it a candidate for `best`. CheckpointError when it cannot be written: the temporary
        folder is gone then, and earlier checkpoints are as they were.
        """
        final = self.folder / step_name(step)
        temporary = self.folder / f".{step_name(step)}.part"
        facts = {
            **meta,
            "format": FORMAT,
            "facex": __version__,
            "torch": torch.__version__,
            "step": step,
            "world_size": self.world_size,
            "score": score if score is not None and math.isfinite(score) else None,
        }

        def prepare() -> None:
            if self.rank == 0:
                self.remove_leftovers()
                temporary.mkdir(parents=True)

        def write_own() -> None:
            if self.rank == 0:
                files.write_tensors(temporary / "method.safetensors", method_state)
                with files.writing(temporary / "meta.json") as path:
                    path.write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")
            if save_head is not None:
                with files.writing(temporary / "head") as path:
                    save_head(path)
            with files.writing(temporary / "rank_state" / f"rank_{self.rank}.pt") as path:
                path.parent.mkdir(exist_ok=True)
                torch.save({"random": files.random_state(), **(rank_state or {})}, path)

        def write_engines() -> None:
            if save_engines is not None:
                with files.writing(temporary):
                    save_engines(temporary)

        def publish() -> None:
            if self.rank == 0:
                files.flush_to_disk(temporary)
                self._publish(temporary, final)

        self._together(prepare, temporary)
        self._together(write_own, temporary)
        self._together(write_engines, temporary, collective_inside=True)
        self._together(lambda: files.write_manifest(temporary, self.rank, self.world_size), temporary)
        self._together(publish, temporary)
        return final

    def _together(self, part: Callable[[], None], temporary: Path, collective_inside: bool = False) -> None:
        """Run one part of a save on every rank, and go on only when it went well on all of them.

        A part with collectives inside (DeepSpeed's) cannot be waited for after a failure, since the other ranks still
        wait in it: the failing rank cleans up and raises at once, and the launcher ends the rest.
        """
        error: BaseException | None = None
        try:
            with files.writing(temporary):
                part()
        except BaseException as caught:
            error = caught
        if error is not None and (collective_inside or not isinstance(error, Exception)):
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._explained(error)
        failed = [text for text in gather_objects(None if error is None else str(error)) if text is not None]
        if not failed:
            return
        if self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        gather_objects(None)  # nobody leaves before the folder is gone
        raise self._explained(error if error is not None else CheckpointError(failed[0]))

    def _explained(self, error: BaseException) -> BaseException:
        if not isinstance(error, CheckpointError):
            return error
        last = latest_name(self.folder)
        rest = f"the last good checkpoint is {self.folder / last}" if last else "there is no earlier checkpoint"
        explained = CheckpointError(f"{error}. The unfinished checkpoint was removed; {rest}. Make room and resume.")
        explained.__cause__ = error
        return explained

    def _publish(self, temporary: Path, final: Path) -> None:
        """Give the complete folder its name, then move `latest`, then remove what is no longer kept."""
        old = self.folder / f".{final.name}.old"
        if final.exists():
            os.replace(final, old)
        os.replace(temporary, final)
        write_text(self.folder / "latest", final.name + "\n")
        shutil.rmtree(old, ignore_errors=True)
        self._prune(final.name)

    def remove_leftovers(self) -> None:
        """Remove unfinished folders of a killed run (rank 0, before it writes). A checkpoint that was being replaced
        by one of the same step, and lost its name at that moment, gets it back."""
        for folder in self.folder.glob(".step_*"):
            name = folder.name.lstrip(".").rsplit(".", 1)[0]
            if folder.suffix == ".old" and not (self.folder / name).exists():
                os.replace(folder, self.folder / name)
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def _prune(self, newest: str) -> None:
        if self.keep_last < 1:
            return
        found = names(self.folder)
        kept = {newest, *found[-self.keep_last :], *best_names(self.folder)[: self.keep_best]}
        for name in found:
            # a run that was set back to an earlier step keeps what lies behind it: only older ones are ever removed
            if name not in kept and step_of(name) <= step_of(newest):
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def open(self, which: str | int = "last") -> Checkpoint:
        """The checkpoint `last`, `best`, of a step number, or of a folder name, compared with its manifest."""
        return open_checkpoint(choose(self.folder, which))
