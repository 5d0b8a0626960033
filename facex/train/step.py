"""One global batch: the generators of its micro-batches in lock-step, backward, and the steps that follow."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from facex.errors import ConfigError, TrainingError
from facex.methods import Batch, Method, Update
from facex.train.context import Shared, StepContext
from facex.train.engines import NetworkEngine
from facex.train.head import TrainedHead
from facex.train.nonfinite import LossWatch
from facex.train.precision import LossScale
from facex.train.progress import StepTimer


class Stepper:
    """Trains on global batches.

    All micro-batches of a global batch reach their n-th Update; each graph is freed by its own backward; then the update is
    applied to network and head, and all go on. So accumulation never changes what a method computes.
    """

    def __init__(
        self,
        method: Method,
        engines: dict[str, NetworkEngine],
        head: TrainedHead | None,
        shared: Shared,
        scale: LossScale,
        watch: LossWatch,
        timer: StepTimer,
        channels_last: bool = False,
    ) -> None:
        self.method, self.engines, self.head, self.shared = method, engines, head, shared
        self.scale, self.watch, self.timer = scale, watch, timer
        self._channels_last = channels_last
        self._logs: dict[str, Tensor] = {}
        self._collect = False

    def run(self, batches: list[Batch], collect: bool) -> dict[str, Tensor]:
        """Train on one global batch (this rank's micro-batches). With `collect`, returns every loss and log averaged over its
        micro-batches (not over ranks), else the losses only; detached, on the device."""
        self._logs, self._collect = {}, collect
        contexts = [StepContext(self.shared, batch) for batch in batches]
        generators = [self._generate(b, c) for b, c in zip(batches, contexts, strict=True)]
        done: dict[str, int] = {}
        while (network := self._lock_step(generators, batches, done)) is not None:
            if self._due(network):
                with self.timer.span("optimizer"):
                    self._applied(network, contexts[0])
        for generator in generators:
            generator.close()
        return {name: value / len(batches) for name, value in self._logs.items()}

    def _due(self, network: str) -> bool:
        """Whether this global batch's gradients of the network count."""
        return self.engines[network].cadence.due(self.shared.clock.batches)

    def _generate(self, batch: Batch, context: StepContext) -> Generator[Update]:
        with torch.no_grad():
            prepared = self.method.prepare(batch, context)
            if self._channels_last and "image" in prepared and prepared["image"].ndim == 4:
                prepared = prepared.with_fields(image=prepared["image"].to(memory_format=torch.channels_last))
        yield from self.method.training_step(prepared, context)

    def _lock_step(
        self, generators: Sequence[Iterator[Update]], batches: list[Batch], done: dict[str, int]
    ) -> str | None:
        """Bring every micro-batch to its next Update and through its backward; the network's name, None at the end."""
        network: str | None = None
        for place, (generator, batch) in enumerate(zip(generators, batches, strict=True)):
            with self.timer.span("forward"):
                update = next(generator, None)
            name = None if update is None else update.network
            if place and name != network:
                raise TrainingError(
                    f"{type(self.method).__name__}.training_step: micro-batch {place} yields an Update of network '{name}' "
                    f"where micro-batch 0 yields '{network}'; every micro-batch must yield the same sequence"
                )
            network = name
            if update is not None:
                self._check(update, done if place == 0 else None)
                self._backward(update, done[update.network], batch, last=place == len(batches) - 1)
        return network

    def _check(self, update: Update, done: dict[str, int] | None) -> None:
        engine = self.engines.get(update.network)
        if engine is None:
            raise ConfigError(f"an Update names network '{update.network}'; the method has {', '.join(self.engines)}")
        if update.embeddings is not None and (self.head is None or self.head.network != update.network):
            follows = (
                "there is no head (Method.head)" if self.head is None else f"the head follows '{self.head.network}'"
            )
            raise ConfigError(f"an Update of network '{update.network}' brings embeddings for the head, but {follows}")
        if done is not None:
            done[update.network] = done.get(update.network, 0) + 1
            if done[update.network] > 1 and engine.every > 1:
                raise ConfigError(
                    f"network '{update.network}' has several Updates a step: networks.{update.network}.every must be 1"
                )

    def _backward(self, update: Update, number: int, batch: Batch, last: bool) -> None:
        engine = self.engines[update.network]
        prefix = update.network if number == 1 else f"{update.network}.{number}"
        parts = dict(update.losses)
        total: Tensor | None = None
        for value in parts.values():
            total = value if total is None else total + value
        if update.embeddings is not None:
            assert self.head is not None
            if update.labels is None:
                raise ConfigError(f"an Update of network '{update.network}' brings embeddings without labels")
            with self.timer.span("head"):
                output = self.head.module(update.embeddings.float(), update.labels, update.label_weights)
            total = output.loss if total is None else total + output.loss
            parts["head"] = output.loss
            self._log("head", output.logs)
        if total is None:
            raise ConfigError(f"an Update of network '{update.network}' has neither losses nor embeddings")
        if self._due(update.network):
            self.watch.note(update.network, total, batch.index)
            if engine.unscaler is not None:
                engine.unscaler.note(total)
            if update.embeddings is not None and self.head is not None:
                self.head.prepare(engine.lr(), self.shared.value)
            with self.timer.span("backward"):  # the head's too: it is one graph
                engine.backward(total, last=last and engine.closes())
        self._add(f"{prefix}/loss", total)
        self._log(prefix, parts)
        self._log(prefix, update.logs)

    def _applied(self, network: str, context: StepContext) -> None:
        """Every micro-batch has been through backward: step or skip if the window closes."""
        engine = self.engines[network]
        if not engine.closes():
            engine.batches_open += 1
            return
        head = self.head if self.head is not None and self.head.network == network else None
        clock = self.shared.clock
        if self.watch.close(network, clock.batches + 1, engine.overflow()):
            engine.skip()
            if head is not None:
                head.module.skip()
            self.scale.overflowed()
        else:
            self._step(engine, head)
            self.scale.applied()
            clock.step = max(e.applied for e in self.engines.values())
            with torch.no_grad():
                self.method.after_update(network, context)
        if all(e.batches_open == 0 for e in self.engines.values()):
            self.scale.settle()

    def _step(self, engine: NetworkEngine, head: TrainedHead | None) -> None:
        scale = self.scale.value

        def square() -> Tensor:
            assert head is not None
            return head.module.grad_sq_norm(scale)

        lr = engine.lr()
        coefficient = engine.apply(self.shared.value, square if head is not None else None)
        if head is not None:
            head.step(lr, scale, coefficient, self.shared.value)

    def _log(self, prefix: str, values: dict[str, Any]) -> None:
        if self._collect:
            for name, value in values.items():
                # PREFIX/loss is the sum of all losses: one that a method calls so itself stands beside it
                self._add(
                    f"{prefix}/{'own_loss' if name == 'loss' else name}",
                    torch.as_tensor(value, device=self.shared.ranks.device),
                )

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach().float().mean()
        self._logs[name] = self._logs[name] + value if name in self._logs else value
