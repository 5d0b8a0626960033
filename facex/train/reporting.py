"""What a run says: its plan before the first step, numbers while it trains, a table at its end. Rank 0 speaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from facex.files import write_text
from facex.methods import Visuals
from facex.train import distributed
from facex.train.logging import MetricsLogger
from facex.train.optim import group_table
from facex.train.progress import Progress, format_table, shares

if TYPE_CHECKING:
    from facex.train.checkpoint import Checkpoint
    from facex.train.trainer import RunResult, Trainer


class Reporter:
    """The console, metrics.jsonl, TensorBoard and Weights & Biases of one run."""

    def __init__(self, trainer: Trainer, config_data: dict[str, Any]) -> None:
        self._t = trainer
        self._config_data = config_data
        self._logger: MetricsLogger | None = None
        self._progress: Progress | None = None

    def begin(self, resumed: Checkpoint | None) -> None:
        """Say what will be done and open the logs."""
        t = self._t
        done = t.clock.batches
        here = resumed is not None and resumed.path.resolve().is_relative_to(t.output.resolve())
        self._logger = MetricsLogger(
            t.output, t.config.logging, t.ranks.rank, done if here else None, self._config_data or None
        )
        if t.ranks.first:
            if self._config_data:
                write_text(t.output / "config.yaml", yaml.safe_dump(self._config_data, sort_keys=False))
            print("\n".join(self._plan(resumed)), flush=True)
        self._progress = Progress(
            t.plan.total_batches, t.plan.global_batch, done, t.ranks.rank, t.config.logging.console_seconds
        )

    def dry_run(self) -> None:
        """Print the plan and the rates that the schedules give; open no log."""
        t = self._t
        if not t.ranks.first:
            return
        print("\n".join(self._plan(None)))
        for name, engine in t.networks.engines.items():
            steps = t.plan.total_batches // engine.every
            marks = sorted({0, 1, min(engine.schedule.warmup.steps, steps - 1), steps // 2, steps - 1})
            rates = ", ".join(f"{engine.schedule.lr(k) * engine.lr_scale:.4g} at step {k}" for k in marks if k < steps)
            print(f"rates    {name}: {rates}", flush=True)

    def _plan(self, resumed: Checkpoint | None) -> Iterator[str]:
        t, p, c = self._t, self._t.plan, self._t.config
        yield f"run      {t.output}" + (f", resumed from {resumed.path}" if resumed else "")
        yield f"data     {c.data.path}: {len(t.dataset)} images, {t.dataset.num_classes} classes, {t.dataset.color}"
        yield (
            f"batch    {p.global_batch} = {p.micro_batch} x {p.accumulation} accumulation x {t.ranks.world_size} ranks; "
            f"{p.batches_per_epoch} an epoch, {p.total_batches} in all"
        )
        if t.clock.batches >= t.end:
            yield f"nothing  is left to train: {t.clock.batches} of {p.total_batches} batches are done"
        threads = f", {torch.get_num_threads()} threads a rank" if t.ranks.device.type == "cpu" else ""
        yield f"engine   {c.trainer.precision}, ZeRO-{c.trainer.zero}, {t.ranks.device.type}{threads}, seed {c.trainer.seed}"
        for name, engine in t.networks.engines.items():
            every = f", stepped every {engine.every} batches" if engine.every > 1 else ""
            clip = f", clip {engine.clip.norm:g} ({engine.clip.scope})" if engine.clip.norm > 0 else ""
            scale = f" x {engine.lr_scale:g}" if engine.lr_scale != 1 else ""
            yield f"network  {name}: {engine.optimizer_config.name}, {engine.schedule.describe()}{scale}{every}{clip}"
        if t.head is not None:
            h = t.head
            decay = f"{h.decay:g}" if h.decay_schedule is None else f"schedule {h.decay_schedule}"
            yield (
                f"head     {h.classes} classes over {t.ranks.world_size} rank(s), {type(h.module.margin).__name__}, "
                f"sample rate {h.sample_rate:g}, {h.precision}, {h.optimizer.name}, rate x {h.lr(1.0):g}, "
                f"weight decay {decay}"
            )
        groups = {n: e.groups for n, e in t.networks.engines.items()}
        count = sum(map(len, groups.values()))
        yield f"groups   {count + (t.head is not None)}" + (
            f": {count} below, and the head's" if t.head is not None else ""
        )
        yield format_table(group_table(groups), indent="  ")
        for report in t.load_reports:
            yield str(report)

    def log(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Average the values over ranks, read them, write them down; returned on every rank. Collective."""
        t = self._t
        names = list(values)
        # a batch in which no network was due has no values
        means = (
            distributed.all_reduce(torch.stack([values[n].double() for n in names]), "mean").tolist() if names else []
        )
        read = dict(zip(names, means, strict=True))
        extra: dict[str, float] = {"epoch": t.clock.batches / t.loader.batches_per_epoch, "applied": t.clock.step}
        for name, engine in t.networks.engines.items():
            extra[f"{name}/lr"] = engine.last_lr
            if (norm := engine.grad_norm()) is not None:
                extra[f"{name}/grad_norm"] = norm
            if t.scale.active:
                extra[f"{name}/skipped"] = engine.skipped
        if t.scale.active:
            extra["loss_scale"] = t.scale.value
        assert self._progress is not None and self._logger is not None
        extra |= {f"share/{part}": share for part, share in shares(t.timer.take()).items()}
        extra["images_per_second"] = self._progress.speed.recent()
        self._logger.log(t.clock.batches, {**read, **extra})
        self._shown = {k.removesuffix("/loss"): v for k, v in read.items() if k.endswith("/loss")}
        self._shown["lr"] = max(engine.last_lr for engine in t.networks.engines.values())
        return read

    _shown: dict[str, float] | None = None

    def progress(self) -> None:
        """A global batch is done."""
        if self._progress is not None:
            self._progress.update(self._t.clock.batches, self._shown)
            self._shown = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Evaluation and checkpoints do not count as training time."""
        assert self._progress is not None
        with self._progress.speed.pause():
            yield

    def visuals(self, visuals: Visuals) -> None:
        """Pictures and histograms of the method."""
        if self._logger is not None:
            self._logger.visuals(self._t.clock.batches + 1, visuals)

    def evaluation(self, results: dict[str, dict[str, Any]]) -> None:
        """Results of the verification sets, by name."""
        assert self._progress is not None and self._logger is not None
        self._logger.log(
            self._t.clock.batches,
            {
                f"eval/{name}/{key}": float(value)
                for name, result in results.items()
                for key, value in result.items()
                if isinstance(value, int | float)
            },
        )
        shown = "  ".join(f"{name} {result['accuracy']:.4f}" for name, result in results.items())
        self._progress.print(f"step {self._t.clock.batches}: accuracy  {shown}")

    def images_per_second(self) -> float:
        """Training speed over the whole run."""
        return self._progress.speed.overall() if self._progress is not None else 0.0

    def end(self, result: RunResult) -> None:
        """The closing table."""
        if self._progress is None:
            return
        rows = [("what", "value"), ("steps", str(result.steps)), ("images/s", f"{result.images_per_second:,.1f}")]
        if self._t.timer.total:
            rows.append(("time", "  ".join(f"{p} {s:.0%}" for p, s in shares(self._t.timer.total).items())))
        rows += [(name, f"{value:.4f}") for name, value in result.losses.items() if name.endswith("/loss")]
        if result.evaluations:
            step, last = list(result.evaluations.items())[-1]
            rows += [(f"accuracy {name} (step {step})", f"{values['accuracy']:.4f}") for name, values in last.items()]
        self._progress.close()
        self._progress.print(format_table(rows) + f"\nrun folder: {result.output}")

    def close(self) -> None:
        """Close bar and logs; may be called twice."""
        if self._progress is not None:
            self._progress.close()
        if self._logger is not None:
            self._logger.close()
