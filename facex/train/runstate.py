"""What a checkpoint holds of a run, and how a run goes on from one, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from facex.errors import CheckpointError, ConfigError, TrainingError
from facex.train import checkpoint_files, distributed
from facex.train.checkpoint import ENGINE_TAG, Checkpoint, CheckpointManager, open_checkpoint
from facex.train.checkpoint_folder import latest_name
from facex.train.config import TrainerConfig
from facex.train.method_state import describe_networks, load_method_state, method_state

if TYPE_CHECKING:
    from facex.train.trainer import Trainer


def find_resume(config: TrainerConfig) -> Checkpoint | None:
    """The checkpoint that trainer.resume asks for. `none` in a folder that has some is refused: it would mix two runs."""
    folder = Path(config.output) / "checkpoints"
    if config.resume == "none":
        if (last := latest_name(folder)) is not None:
            raise ConfigError(
                f"{config.output} already holds checkpoints (the last is {last}); go on with --trainer.resume auto, or choose "
                "another --trainer.output"
            )
        return None
    if config.resume == "auto":
        return None if latest_name(folder) is None else open_checkpoint(config.output)
    checkpoint = open_checkpoint(config.resume)
    if latest_name(folder) is not None and folder.resolve() not in checkpoint.path.resolve().parents:
        raise ConfigError(
            f"{config.output} already holds checkpoints, and trainer.resume={config.resume} is another run's; go on with "
            "--trainer.resume auto, or choose another --trainer.output"
        )
    return checkpoint


class RunState:
    """Saves and restores a trainer."""

    def __init__(self, trainer: Trainer, resolved: Mapping[str, Any], checkpoint: Checkpoint | None) -> None:
        self._t = trainer
        self._resolved = resolved
        self._checkpoint = checkpoint
        self._random: Mapping[str, Any] | None = None
        self._pending = False
        self.best: float | None = None
        t = trainer.config.trainer
        self.manager = CheckpointManager(
            trainer.output, t.keep_last, t.keep_best, trainer.ranks.rank, trainer.ranks.world_size
        )

    # -- writing ------------------------------------------------------------------------------------------------------
    def due(self, number: int, end: int, score: float | None, keep: bool = False) -> bool:
        """Whether a checkpoint is to be written after global batch `number`: when it is time, a new best was found or the
        rule of selection says `keep`, and no window of gradients is open (else at the next batch where none is)."""
        every = self._t.config.trainer.checkpoint_every or self._t.loader.batches_per_epoch
        closed = self._t.windows_closed() or number >= self._t.plan.total_batches
        if (
            score is not None and closed and (self.best is None or score > self.best)
        ):  # else others' weights would be saved
            self.best, self._pending = score, True
        if keep or number % every == 0 or number >= end:
            self._pending = True
        if self._pending and closed:
            self._pending = False
            return True
        return False

    def save(self, score: float | None) -> Path:
        """Write a checkpoint of this moment; every rank calls it."""
        t = self._t
        state = method_state(t.method, self._gather(), keep=t.ranks.first)
        distributed.together(lambda: self._check_finite(state), "the check before a checkpoint")
        return self.manager.save(
            t.clock.batches,
            meta=self._meta(),
            method_state=state,
            save_engines=self._save_engines,
            save_head=None if t.head is None else t.head.module.save,
            rank_state={
                "buffers": {name: _on_cpu(e.buffers()) for name, e in t.networks.engines.items()},
                "method_buffers": _on_cpu(dict(t.method.named_buffers())),
            },
            score=score,
        )

    def _check_finite(self, state: Mapping[str, torch.Tensor]) -> None:
        """A gradient may overflow at a finite loss: weights that are lost must not replace the last good checkpoint."""
        head = {} if self._t.head is None else {"class centres": self._t.head.module.weight.detach()}
        bad = [
            name
            for name, value in {**state, **head}.items()
            if value.is_floating_point() and not bool(torch.isfinite(value.sum(dtype=torch.float64)))
        ]
        if bad:
            raise TrainingError(
                f"after step {self._t.clock.batches} on rank {self._t.ranks.rank} these are not finite: {', '.join(bad[:4])}"
                f"{', ...' if len(bad) > 4 else ''} ({len(bad)}); no checkpoint was written, earlier ones are as they were. "
                "Lower the learning rate or clip gradients, and go on with --trainer.resume auto"
            )

    def _gather(self) -> Any:
        if self._t.config.trainer.zero < 3:
            return None
        import deepspeed

        return deepspeed.zero.GatheredParameters

    def _save_engines(self, folder: Path) -> None:
        for name, engine in self._t.networks.engines.items():
            engine.engine.save_checkpoint(str(folder / f"engine_{name}"), tag=ENGINE_TAG, save_latest=False)

    def _meta(self) -> dict[str, Any]:
        t = self._t
        kind = type(t.method)
        return {
            "method": self._resolved.get("method") or {"class_path": f"{kind.__module__}.{kind.__qualname__}"},
            "config": dict(self._resolved),
            "input": asdict(t.method.input),
            "networks": describe_networks(t.method),
            "num_classes": t.dataset.num_classes,
            "samples": len(t.dataset),
            "seed": t.config.trainer.seed,
            "order": t.config.data.order,
            "global_batch": t.plan.global_batch,
            "zero": t.config.trainer.zero,
            "precision": t.config.trainer.precision,
            "epoch": t.clock.epoch,
            "batches": t.clock.batches,
            "applied": t.clock.step,
            "total_batches": t.plan.total_batches,
            "engines": {name: e.state() for name, e in t.networks.engines.items()},
            "loss_scale": t.scale.state(),
            "stagnation": t.guard.state(),
            "best": self.best,
            "evaluations": t.evaluations,
        }

    # -- going on -----------------------------------------------------------------------------------------------------
    def resume(self) -> Checkpoint | None:
        """Restore everything but the random generators (`restore_random`, when set-up is over)."""
        checkpoint, t = self._checkpoint, self._t
        if checkpoint is None:
            return None
        meta = checkpoint.meta
        self._check(meta, checkpoint.path)
        checkpoint.check_world(t.ranks.world_size, t.config.trainer.zero)
        where = str(checkpoint.path / "method.safetensors")
        state = checkpoint.method_state()
        load_method_state(t.method, state, where, checkpoint.describe(), only=("frozen.", "method."))
        for name, engine in t.networks.engines.items():
            folder = checkpoint.engine_dir(name)
            checkpoint_files.check_engine_pickles(folder)
            engine.load(folder, checkpoint.engine_tag)
            engine.load_state(meta["engines"][name])
        self._load_buffers(checkpoint, state)
        if t.head is not None:
            t.head.module.load(checkpoint.head_dir)
        t.scale.load(meta["loss_scale"])
        t.guard.load(meta["stagnation"], t.ranks.device)
        t.clock.batches, t.clock.epoch, t.clock.step = meta["batches"], meta["epoch"], meta["applied"]
        t.evaluations.update(meta.get("evaluations", {}))
        self.best = meta.get("best")
        return checkpoint

    def restore_random(self) -> None:
        """Put this rank's random generators where the checkpoint left them."""
        if self._random is not None:
            checkpoint_files.restore_random_state(self._random)

    def _load_buffers(self, checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> None:
        """Each rank's own buffers; on another number of ranks, rank 0's for the ranks that are new."""
        t = self._t
        same = int(checkpoint.meta["world_size"]) == t.ranks.world_size
        mine = checkpoint.rank_state(t.ranks.rank) if same else None
        with torch.no_grad():
            for name, engine in t.networks.engines.items():
                for key, buffer in engine.buffers().items():
                    saved = mine["buffers"][name].get(key) if mine else state.get(f"networks.{name}.{key}")
                    if saved is not None:
                        buffer.copy_(saved)
            if mine:
                for key, buffer in t.method.named_buffers():
                    if key in mine["method_buffers"]:
                        buffer.copy_(mine["method_buffers"][key])
                self._random = mine["random"]

    def _check(self, meta: Mapping[str, Any], path: Path) -> None:
        t = self._t
        if "engines" not in meta:
            raise CheckpointError(
                f"{path} is a converted model without optimizer state, so no run can go on from it; start from it with "
                f"--init_from '[{{path: {path}}}]' and another --trainer.output"
            )
        if meta["num_classes"] != t.dataset.num_classes and t.head is not None:
            raise CheckpointError(
                f"{path} was trained on {meta['num_classes']} classes, {t.config.data.path} has {t.dataset.num_classes}; resume "
                "with the same data, or start anew with init_from"
            )
        wanted: dict[str, Any] = {
            "samples": len(t.dataset),
            "seed": t.config.trainer.seed,
            "global_batch": t.plan.global_batch,
        }
        wanted["order"] = t.config.data.order
        if t.config.data.order != "facex":  # each rank has a list of its own
            wanted["world_size"] = t.ranks.world_size
        for key, value in wanted.items():
            if meta[key] != value:
                raise CheckpointError(
                    f"{path} cannot be resumed exactly: its {key} is {meta[key]}, here it is {value}; give the same, or start anew "
                    "with init_from"
                )
        names = set(meta["engines"])
        if names != set(t.networks.engines):
            raise CheckpointError(
                f"{path} is of another architecture: it has networks {sorted(names)}, here there are {sorted(t.networks.engines)}"
            )


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
