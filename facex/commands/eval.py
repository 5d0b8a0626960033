"""`facex eval`: verification of trained runs, plain and under occlusion, IJB and AR, with baselines and a report page."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from facex.commands.eval_options import build_parser, check, networks
from facex.files import write_json
from facex.launchers import started_ranks

if TYPE_CHECKING:
    from facex.commands.eval_ijb import IjbOutcome
    from facex.eval.ar_database import ArResult
    from facex.eval.occlusion import OcclusionCurve
    from facex.eval.run import SetResult
    from facex.train.launch import Ranks

__all__ = ["build_parser", "main"]


@dataclass
class Outcome:
    """What was found, by network (and set), and where the page is."""

    results: dict[str, dict[str, SetResult]] = field(default_factory=dict)
    curves: dict[str, dict[str, OcclusionCurve]] = field(default_factory=dict)
    ar: dict[str, ArResult] = field(default_factory=dict)
    ijb: IjbOutcome | None = None
    page: Path | None = None
    pictures: list[Path] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Print tables, or with `--json -` one JSON object alone on stdout; returns the exit code 0."""
    options = build_parser().parse_args(argv)
    check(options)
    networks(options)
    with _quiet_stdout(options.json == "-") as write, _ranks() as ranks:
        outcome = _evaluate(options, ranks)
        if ranks is not None and not ranks.first:
            return 0
        _say(options, outcome, write)
    return 0


def _say(options: Namespace, outcome: Outcome, write: Callable[[str], None]) -> None:
    from facex.commands.eval_print import print_ar, print_ijb, print_results

    if options.json:
        numbers = _numbers(options, outcome)
        if options.json == "-":
            write(json.dumps(numbers, indent=2) + "\n")
            return
        write_json(options.json, numbers)
    if outcome.ijb is not None:
        print_ijb(outcome.ijb.one.name, outcome.ijb.results)
    elif outcome.ar:
        print_ar(outcome.ar)
    else:
        print_results(outcome.results, options.name, outcome.curves)
    if outcome.pictures:
        print(f"pictures: {outcome.pictures[0].parent} ({len(outcome.pictures)} files)")
    if outcome.page is not None:
        print(f"report: {outcome.page}")


def _numbers(options: Namespace, outcome: Outcome) -> dict[str, Any]:
    from facex.commands.eval_print import as_json

    if outcome.ijb is not None:
        return {"ijb": outcome.ijb.numbers()}
    if outcome.ar:
        return {"ar": {name: result.summary() for name, result in outcome.ar.items()}}
    return as_json(outcome.results, options.name, outcome.curves)


@contextmanager
def _ranks() -> Iterator[Ranks | None]:
    """The processes of a launcher, which share the pictures (rank 0 prints and writes); None without one."""
    if started_ranks() == 1:
        yield None
        return
    from facex.train import launch

    yield launch.start()
    launch.stop()  # not after an error: leaving the group could wait for ever


def _evaluate(options: Namespace, ranks: Ranks | None = None) -> Outcome:
    from facex.commands.eval_runs import Evaluation

    first = ranks is None or ranks.first
    evaluation = Evaluation(options, ranks.device if ranks is not None else None, first)
    outcome = Outcome()
    if options.protocol == "ar":
        outcome.ar = {name: evaluation.ar(folder) for name, folder in networks(options).items()}
        return outcome
    if options.protocol == "ijb":
        from facex.commands.eval_ijb import evaluate_networks, write_report

        outcome.ijb = evaluate_networks(evaluation, networks(options))
        if options.report and first:
            outcome.page = write_report(evaluation, outcome.ijb)
        return outcome
    evaluation.load_sets()
    outcome.results, outcome.curves = evaluation.verify(networks(options))
    outcome.pictures = evaluation.pictures
    if options.report and first:
        outcome.page = evaluation.report(outcome.results, outcome.curves)
    return outcome


@contextmanager
def _quiet_stdout(active: bool) -> Iterator[Callable[[str], None]]:
    """Inside, what a library prints on stdout goes to stderr, C++ included; the function yielded writes to stdout."""
    if not active:
        yield lambda text: print(text, end="")
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    before, sys.stdout = sys.stdout, sys.stderr
    try:

        def write(text: str) -> None:
            with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stdout:
                stdout.write(text)

        yield write
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)
