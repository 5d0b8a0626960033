"""Verification during training: it leaves modes, random states and buffers exactly as it found them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from facex.errors import ConfigError
from facex.eval.run import evaluate_bins, load_bins
from facex.methods import Method
from facex.train import distributed
from facex.train.checkpoint_files import random_state, restore_random_state
from facex.train.config import EvaluationConfig
from facex.train.launch import Ranks
from facex.train.paths import expand
from facex.train.selection import Results, SetAccuracy
from facex.train.setup import Networks


@contextmanager
def undisturbed(method: Method, networks: Networks) -> Iterator[None]:
    """Inside: evaluation mode, and rank 0's buffers on every rank. Afterwards everything is as before."""
    modules = [method, *(e.module for e in networks.engines.values()), *(f.module for f in networks.frozen.values())]
    parts = {id(m): m for module in modules for m in module.modules()}
    modes = [(m, m.training) for m in parts.values()]
    buffers = [b for e in networks.engines.values() for b in e.buffers().values()]
    saved = [b.detach().clone() for b in buffers]
    rng = random_state()
    try:
        set_mode(method, networks, training=False)
        broadcast(buffers)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in zip(buffers, saved, strict=True):
                buffer.copy_(before)
        restore_random_state(rng)


def set_mode(method: Method, networks: Networks, training: bool) -> None:
    """`Method.train(training)` for all networks, then each frozen network's own mode."""
    registered = {id(m) for m in method.modules()}
    for engine in networks.engines.values():
        if id(engine.module) not in registered:
            engine.module.train(training)
    method.train(training)
    for frozen in networks.frozen.values():
        if training:
            frozen.set_mode()
        else:
            frozen.module.eval()


@torch.no_grad()
def broadcast(tensors: list[Tensor]) -> None:
    """Rank 0's values on every rank."""
    if distributed.world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@dataclass(frozen=True)
class Verdict:
    """Of an evaluation: how good its weights are (None: not to be chosen), and whether they are saved in any case."""

    score: float | None = None
    keep: bool = False


class Evaluator:
    """Runs the verification sets of a config; every rank takes part.

    The sets are read once, at the start (encoded pictures stay in memory): a bad file shows before anything is trained.
    """

    def __init__(self, config: EvaluationConfig, method: Method, networks: Networks, ranks: Ranks) -> None:
        self.config, self._method, self._networks, self._ranks = config, method, networks, ranks
        paths = [expand(p, "evaluation.bins") for p in config.bins]
        if missing := [str(p) for p in paths if not p.exists()]:
            raise ConfigError(f"evaluation.bins: no such file: {', '.join(missing)}")
        self.sets = load_bins(paths, config.folds, config.uneven_folds)
        rule = config.selection
        self.selection = SetAccuracy(rule) if isinstance(rule, str) else rule
        if self.selection is not None:
            self.selection.check([one.name for one in self.sets])

    def __bool__(self) -> bool:
        return bool(self.sets)

    def run(self) -> dict[str, dict[str, Any]]:
        """Results by set name, equal on every rank: at least {"accuracy": 0..1}."""
        with undisturbed(self._method, self._networks), torch.no_grad():
            found = evaluate_bins(
                self._method,
                self._networks.nets(),
                self.sets,
                device=self._ranks.device,
                batch_size=self.config.batch_size,
                flip=self.config.flip,
                folds=self.config.folds,
                uneven_folds=self.config.uneven_folds,
            )
        return plain_results(found)

    def judge(self, evaluations: Sequence[Results]) -> Verdict:
        """What the rule of selection says of the last of all evaluations up to now."""
        if self.selection is None:
            return Verdict()
        alike = [one for one in evaluations if list(one) == list(evaluations[-1])]  # a resumed run may have other sets
        return Verdict(self.selection.score(alike), self.selection.keep(alike))


def plain_results(found: Any) -> dict[str, dict[str, Any]]:
    """Results by set name as plain numbers, from objects or dicts."""
    out: dict[str, dict[str, Any]] = {}
    for name, result in dict(found).items():
        values = result if isinstance(result, dict) else vars(result)
        out[str(name)] = {k: v for k, v in values.items() if isinstance(v, int | float | str | dict)}
    return out
