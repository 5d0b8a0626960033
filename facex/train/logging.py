"""Where a run's numbers go: RUN/metrics.jsonl always, TensorBoard and Weights & Biases where wanted. Rank 0 only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from facex.errors import ConfigError
from facex.files import write_text
from facex.methods.spec import Visuals


class LoggingSettings(Protocol):
    """What this module reads of facex.train.config.LoggingConfig."""

    tensorboard: bool
    wandb: bool
    wandb_project: str
    wandb_name: str | None


class Sink(Protocol):
    """One place that numbers and pictures go to."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at a step."""

    def visuals(self, step: int, visuals: Visuals) -> None:
        """Log pictures (uint8 [N, H, W, 3] RGB) and histogram values [N]."""

    def close(self) -> None:
        """Write what is buffered."""


class JsonLines:
    """One JSON object a line: `{"step": 20, "loss": ...}`; NaN and infinities become null. A resumed run first drops
    the lines behind its step, which the run before it wrote and which will be written again."""

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            write_text(path, "" if resume_step is None else _lines_up_to(path, resume_step))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **clean}) + "\n")
        self._file.flush()

    def visuals(self, step: int, visuals: Visuals) -> None:
        """Pictures have no place in a text file."""

    def close(self) -> None:
        self._file.close()


def _lines_up_to(path: Path, step: int) -> str:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by the end of the process that wrote it
    return "".join(kept)


class TensorBoard:
    """TensorBoard events in RUN/tensorboard; a resumed run hides what lies behind its step."""

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def visuals(self, step: int, visuals: Visuals) -> None:
        for name, pictures in visuals.images.items():
            self._writer.add_images(name, pictures.cpu(), step, dataformats="NHWC")
        for name, values in visuals.histograms.items():
            self._writer.add_histogram(name, values.float().cpu(), step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases, for those who have the package `wandb`; a resumed run goes on under its own id."""

    def __init__(self, run_dir: Path, project: str, name: str | None, config: Mapping[str, Any] | None) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "logging.wandb is on, but the package wandb is not installed: pip install 'facex-train[wandb]', or "
                "switch it off with --logging.wandb false"
            ) from error
        self._wandb = wandb
        stored = run_dir / "wandb_id"
        known = stored.read_text(encoding="utf-8").strip() if stored.exists() else None
        self._run = wandb.init(
            project=project,
            name=name or run_dir.resolve().name,
            dir=str(run_dir),
            config=dict(config or {}),
            id=known,
            resume="allow",
        )
        write_text(stored, f"{self._run.id}\n")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def visuals(self, step: int, visuals: Visuals) -> None:
        pictures = {k: [self._wandb.Image(p.cpu().numpy()) for p in v] for k, v in visuals.images.items()}
        histograms = {k: self._wandb.Histogram(v.float().cpu().numpy()) for k, v in visuals.histograms.items()}
        self._run.log({**pictures, **histograms}, step=step)

    def close(self) -> None:
        self._run.finish()


class MetricsLogger:
    """All sinks of a run. On ranks other than 0 every call does nothing.

    `resume_step`: global batches done by the checkpoint that the run goes on from; None starts the files anew.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        settings: LoggingSettings,
        rank: int = 0,
        resume_step: int | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.sinks: list[Sink] = []
        if rank != 0:
            return
        folder = Path(run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.sinks.append(JsonLines(folder / "metrics.jsonl", resume_step))
        if settings.tensorboard:
            self.sinks.append(TensorBoard(folder / "tensorboard", resume_step))
        if settings.wandb:
            try:
                self.sinks.append(WeightsAndBiases(folder, settings.wandb_project, settings.wandb_name, config))
            except BaseException:
                self.close()
                raise

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at a step (global batches done)."""
        plain = {name: float(value) for name, value in values.items()}
        for sink in self.sinks:
            sink.scalars(step, plain)

    def visuals(self, step: int, visuals: Visuals) -> None:
        """Log a method's pictures and histograms at a step."""
        for sink in self.sinks:
            sink.visuals(step, visuals)

    def close(self) -> None:
        """Write what is buffered and close the files; may be called twice."""
        while self.sinks:
            self.sinks.pop().close()
