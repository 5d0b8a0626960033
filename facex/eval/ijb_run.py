"""IJB-B and IJB-C with a method: every face is embedded once, plain or under occlusion, and any rules are applied to it.

Under occlusion the protocol is MSML's official IJB script (`--lo`, `--hi`), without its slips: rates are means over all
repeats, where it draws the last one's, and the last batch is occluded as well.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from facex.errors import ConfigError, DataError
from facex.eval.ijb import IJB_FARS
from facex.eval.ijb_embed import Progress, embed_views
from facex.eval.ijb_faces import IjbSet
from facex.eval.ijb_rules import RULES, IjbNumbers, IjbRules, check_search, evaluate
from facex.eval.occlusion import Condition, OcclusionProtocol
from facex.eval.occlusion_metrics import Mean, mean_interval
from facex.eval.ranks import distributed
from facex.methods import Method
from facex.methods.method import Nets

CLEAN = OcclusionProtocol(ratios=(0,), flip_occlusion="shared")


@dataclass
class IjbPoint:
    """One condition: the numbers of each repeat by rules."""

    condition: Condition
    repeats: dict[str, list[IjbNumbers]]

    def tar(self, rules: str, far: float) -> Mean:
        """TAR at one of the FARs: the mean over the repeats with its 95 % interval (NaN for one repeat)."""
        return mean_interval([numbers.tar[far] for numbers in self.repeats[rules]])

    def auc(self, rules: str) -> Mean:
        """The area under the ROC, likewise."""
        return mean_interval([numbers.auc for numbers in self.repeats[rules]])

    def rank(self, rules: str, rank: int) -> Mean | None:
        """The rate of a rank, likewise; None without 1:N."""
        found = [numbers.search.rates[rank] for numbers in self.repeats[rules] if numbers.search is not None]
        return mean_interval(found) if found else None

    def summary(self) -> dict[str, Any]:
        """Condition, and by rules the mean TAR with its interval and the numbers of every repeat."""
        return {
            "occluder": self.condition.occluder,
            "ratio": self.condition.ratio,
            "rules": {
                name: {
                    "tar@far": {f"{far:g}": self.tar(name, far).value for far in repeats[0].tar},
                    "tar_interval": {f"{far:g}": _number(self.tar(name, far).half_width) for far in repeats[0].tar},
                    "repeats": [numbers.summary() for numbers in repeats],
                }
                for name, repeats in self.repeats.items()
            },
        }


@dataclass
class IjbResult:
    """One network on one set under every condition, the clean faces among them."""

    protocol: OcclusionProtocol
    points: list[IjbPoint] = field(default_factory=list)
    images_per_second: float = 0.0

    @property
    def clean(self) -> dict[str, IjbNumbers]:
        """The numbers of the clean faces by rules."""
        point = next(point for point in self.points if is_clean(point.condition))
        return {name: repeats[0] for name, repeats in point.repeats.items()}

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a JSON file."""
        numbers: dict[str, Any] = {
            "rules": {name: found.summary() for name, found in self.clean.items()},
            "images/s": self.images_per_second,
        }
        if len(self.points) > 1:
            settings = {
                key: value
                for key, value in self.protocol.summary().items()
                if key in ("ratios", "occluders", "fill", "repeats", "seed")
            }
            numbers["occlusion"] = {"protocol": settings, "points": [point.summary() for point in self.points]}
        return numbers


def evaluate_ijb(
    method: Method,
    nets: Nets,
    one: IjbSet,
    rules: Mapping[str, IjbRules] | None = None,
    protocol: OcclusionProtocol = CLEAN,
    *,
    fars: Sequence[float] = IJB_FARS,
    search: bool = True,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    threads: int = 1,
    progress: str | None = None,
) -> IjbResult:
    """A method on a set under every condition of `protocol`, equal on every rank (all must call it).

    `rules` by name (insightface's alone if not given) share the embeddings. `search`: 1:N too, where the lists are
    there. `progress`: what rank 0 calls this pass on standard error; None is silent. Every repeat of a condition is a
    pass over all faces. Raises DataError for pictures, embeddings or lists that cannot be used, ConfigError without
    rules.
    """
    rules = {"insightface": RULES["insightface"]} if rules is None else rules
    check(rules, one, search)
    lists, result = one.lists, IjbResult(protocol)
    views = [view for each in rules.values() for view in each.views]
    seconds = 0.0
    for condition in protocol.conditions():
        point = IjbPoint(condition, {name: [] for name in rules})
        for repeat in range(condition.repeats):
            begun = time.perf_counter()
            found = embed_views(
                method, nets, one.load, len(lists.faces.names), views,
                occluder=None if is_clean(condition) else condition.draw, repeat=repeat, seed=protocol.seed, device=device,
                batch_size=batch_size, threads=threads, progress=_progress(progress, condition, repeat, one),
            )  # fmt: skip
            seconds += time.perf_counter() - begun
            for name, each in rules.items():
                point.repeats[name].append(evaluate(each, found, lists, fars, search, device))
        result.points.append(point)
    count = len(lists.faces.names) * sum(point.condition.repeats for point in result.points)
    result.images_per_second = count / max(seconds, 1e-9)
    return result


def check(rules: Mapping[str, IjbRules], one: IjbSet, search: bool = True) -> None:
    """What `evaluate_ijb` refuses before it embeds anything: ConfigError without rules, DataError for pairs of one kind
    alone and for 1:N lists on which the rules have no answer."""
    if not rules:
        raise ConfigError(f"no rules: give some of {', '.join(RULES)}")
    same = one.lists.issame
    if same.all() or not same.any():
        raise DataError(f"all {len(same)} pairs are {'genuine' if same.any() else 'impostor'}: no ROC without both")
    for each in rules.values() if search else ():
        check_search(each, one.lists)


def is_clean(condition: Condition) -> bool:
    """Whether nothing is drawn."""
    return condition.occluder == "none" or condition.ratio == 0


def _progress(what: str | None, condition: Condition, repeat: int, one: IjbSet) -> Progress | None:
    if what is None or (distributed() and torch.distributed.get_rank()):
        return None
    number = f", draw {repeat + 1} of {condition.repeats}" if condition.repeats > 1 else ""
    name = "" if is_clean(condition) else f", {condition.name}{number}"
    return Progress(f"{what}{name}", len(one.lists.faces.names))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
