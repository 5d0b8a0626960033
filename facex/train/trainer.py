"""The training run: epochs, steps, logs, evaluation, checkpoints. What is particular to a method is in the method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facex.errors import FacexError
from facex.files import write_json
from facex.methods import Batch, HeadSpec
from facex.train import distributed, launch, setup
from facex.train.config import TrainConfig
from facex.train.context import Clock, Shared, StepContext
from facex.train.evaluation import Evaluator, Verdict, set_mode
from facex.train.head import init_head
from facex.train.nonfinite import LossWatch
from facex.train.precision import LossScale
from facex.train.progress import StepTimer
from facex.train.reporting import Reporter
from facex.train.runstate import RunState, find_resume
from facex.train.stagnation import StagnationGuard
from facex.train.step import Stepper


@dataclass
class RunResult:
    """What a run ends with; also RUN/results.json."""

    output: Path
    steps: int
    losses: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)


def train(config: TrainConfig, resolved: dict[str, Any] | None = None) -> RunResult:
    """Train as `config` says, on the ranks that the launcher started.

    `resolved`: the configuration as plain data, saved with every checkpoint so that the method can be built again.
    """
    ranks = launch.start(config.trainer.timeout_seconds)
    with distributed.lost_rank_is_an_error(ranks.rank, lambda: "before the first step"):
        trainer = Trainer(config, ranks, resolved or {})
    try:
        return trainer.fit()
    finally:
        trainer.release()


class Trainer:
    """Holds the parts of one run. `fit` trains to the end (or to trainer.max_steps)."""

    def __init__(self, config: TrainConfig, ranks: launch.Ranks, resolved: dict[str, Any]) -> None:
        self.config, self.ranks = config, ranks
        t = config.trainer
        self.method = method = config.method
        self.output = Path(t.output)
        torch.manual_seed(t.seed + ranks.rank)
        self.dataset = distributed.together(lambda: setup.open_data(config, method, ranks), "opening the data")
        self.plan = setup.make_plan(config, ranks, len(self.dataset))
        launch.share_cores(ranks, self.plan.accumulation * ranks.world_size)
        self.loader = setup.make_loader(config, self.dataset, self.plan, ranks)
        self.load_reports = distributed.together(
            lambda: method.init_from(config.init_from) if config.init_from else [], "reading init_from"
        )
        self.scale = LossScale(t.precision, t.fp16_initial_scale, t.fp16_growth_interval, t.fp16_min_scale)
        checkpoint = distributed.together(lambda: find_resume(t), "looking for a checkpoint")
        universal = checkpoint is not None and bool(checkpoint.meta.get("universal"))
        self.networks = setup.make_networks(config, method, self.plan, ranks, self.scale, universal)
        spec: HeadSpec | None = method.head
        self.head = setup.make_head(config, spec, self.networks, self.dataset.num_classes, ranks)
        self.load_reports = [
            *self.load_reports,
            *distributed.together(lambda: init_head(self.head, method, config.init_from), "reading init_from"),
        ]
        self.clock = Clock(total_steps=self._total_applied())
        self.shared = Shared(
            self.networks.nets(),
            None if self.head is None else self.head.module,
            self.clock,
            ranks,
            t.seed,
            method.schedules(),
            {name: engine.cadence for name, engine in self.networks.engines.items()},
        )
        self.watch = LossWatch(ranks, self.output)
        self.guard = StagnationGuard(t.stagnation)
        self.timer = StepTimer(ranks.device, enabled=ranks.first)
        self.stepper = Stepper(
            method, self.networks.engines, self.head, self.shared, self.scale, self.watch, self.timer, t.channels_last
        )
        self.evaluator = distributed.together(
            lambda: Evaluator(config.evaluation, method, self.networks, ranks), "looking for the verification sets"
        )
        self.evaluations: dict[str, dict[str, Any]] = {}
        self.state = RunState(self, resolved, checkpoint)
        self.reporter = Reporter(self, resolved)

    def _total_applied(self) -> int:
        return max(self.plan.total_batches // e.every for e in self.networks.engines.values())

    def fit(self) -> RunResult:
        """Train to the end. The last step writes a checkpoint and evaluates."""
        if self.config.trainer.dry_run:
            self.reporter.dry_run()
            return RunResult(self.output, 0)
        with distributed.lost_rank_is_an_error(self.ranks.rank, lambda: f"near step {self.clock.batches + 1}"):
            resumed = self.state.resume()
            distributed.together(lambda: self.reporter.begin(resumed), "opening the logs")
            torch.manual_seed(
                self.config.trainer.seed + self.ranks.rank
            )  # dropout starts the same whatever set-up drew
            self.state.restore_random()
            set_mode(self.method, self.networks, training=True)
            losses: dict[str, float] = {}
            if resumed is not None and str(self.clock.batches) not in self.evaluations:
                self._evaluate_if_due(self.clock.batches)  # it had failed, and the checkpoint was written all the same
            for batches in self._batches():
                losses = self._step(batches) or losses
            self.watch.flush()
            return self._finish(losses)

    @property
    def end(self) -> int:
        """The global batch after which this process stops."""
        return min(self.plan.total_batches, self.config.trainer.max_steps or self.plan.total_batches)

    def windows_closed(self) -> bool:
        """Whether no network holds gradients that wait for further global batches."""
        return all(e.batches_open == 0 for e in self.networks.engines.values())

    def _going(self) -> bool:
        """A pause (max_steps) waits for the longest window to close."""
        done = self.clock.batches
        return done < self.end or (done < self.plan.total_batches and not self.windows_closed())

    def _batches(self) -> Iterator[list[Batch]]:
        """Global batches from where the run stands to where it ends."""
        while self._going():
            self.clock.epoch, start = divmod(self.clock.batches, self.loader.batches_per_epoch)
            with closing(self.loader.epoch(self.clock.epoch, start)) as epoch:
                while (batches := self._next(epoch)) is not None:
                    yield batches
                    if not self._going():
                        return

    def _next(self, epoch: Iterator[list[Batch]]) -> list[Batch] | None:
        with self.timer.span("data"):
            return next(epoch, None)

    def _step(self, batches: list[Batch]) -> dict[str, float] | None:
        """One global batch and what is due after it; the logged values when they were read."""
        number = self.clock.batches + 1
        t = self.config.trainer
        log_due = number % t.log_every == 0 or number >= self.end
        values = self.stepper.run(batches, collect=log_due)
        if t.visuals_every and number % t.visuals_every == 0:
            self._visuals(batches[0])
        self.clock.batches = number
        self._watch_plateau(values)
        read = self.reporter.log(values) if log_due else None
        self.reporter.progress()
        self._save_if_due(number, self._evaluate_if_due(number))
        return read

    def _save_if_due(self, number: int, verdict: Verdict) -> None:
        if self.state.due(number, self.end, verdict.score, verdict.keep):
            self.watch.flush()
            with self.reporter.pause():
                self.state.save(verdict.score)

    def _watch_plateau(self, values: dict[str, Tensor]) -> None:
        if self.config.trainer.stagnation.window > 0 and values:
            losses = torch.stack([v for k, v in values.items() if k.endswith("/loss")]).sum()
            lr = max(e.lr() for e in self.networks.engines.values())
            self.guard.note(distributed.all_reduce(losses, "mean"), self.clock.batches, lr)

    def _visuals(self, batch: Batch) -> None:
        context = StepContext(self.shared, batch)
        with torch.no_grad():
            visuals = self.method.visuals(self.method.prepare(batch, context), context)
        self.reporter.visuals(visuals)

    def _evaluate_if_due(self, number: int) -> Verdict:
        every = self.config.evaluation.every or self.loader.batches_per_epoch
        if not self.evaluator or not (number % every == 0 or number == self.plan.total_batches):
            return Verdict()
        self.watch.flush()
        try:
            with self.reporter.pause():
                results = self.evaluator.run()
        except Exception as error:
            # Training is not lost with an evaluation. Only where every rank is here: others may have met no error.
            if self.ranks.world_size == 1 or (isinstance(error, FacexError) and error.everywhere):
                self._save_if_due(number, Verdict())
            raise
        self.evaluations[str(number)] = results
        self.reporter.evaluation(results)
        return self.evaluator.judge(list(self.evaluations.values()))

    def _finish(self, losses: dict[str, float]) -> RunResult:
        result = RunResult(
            self.output, self.clock.batches, losses, self.reporter.images_per_second(), dict(self.evaluations)
        )
        path = self.output / "results.json"
        if self.ranks.first and (losses or not path.exists()):  # a finished run that is resumed trains nothing
            write_json(
                path,
                {
                    "steps": result.steps,
                    "finished": result.steps >= self.plan.total_batches,
                    "losses": result.losses,
                    "images_per_second": result.images_per_second,
                    "evaluations": result.evaluations,
                },
            )
        self.reporter.end(result)
        return result

    def release(self) -> None:
        """Close logs and take the engines' hooks off the networks."""
        self.reporter.close()
        for engine in self.networks.engines.values():
            engine.release()
