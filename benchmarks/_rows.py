"""What the benchmarks share: the package on the path without an installation, the form of a row, and the printing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option `--json` that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print the rows as one JSON array")
    return made


def row(
    case: str,
    device: str,
    metric: str,
    value: float,
    peer: float | None,
    peer_name: str,
    *,
    more_is_better: bool = False,
) -> dict[str, Any]:
    """One line of the result; the ratio says how many times better ours is, None without a peer's value."""
    above, below = (value, peer) if more_is_better else (peer, value)
    return {
        "case": case,
        "device": device,
        "metric": metric,
        "ours": round(value, 4),
        "peer": None if peer is None else round(peer, 4),
        "peer_name": peer_name,
        "ratio": round(above / below, 3) if above is not None and below else None,
    }


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print the rows, as JSON or a line each."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for r in rows:
        print(f"{r['case']} ({r['device']}): {r['metric']} {r['ours']} | {r['peer_name']}: {r['peer']} | {r['ratio']}x")


def run_cases(
    description: str | None,
    cases: Iterable[str],
    scales: Iterable[str],
    worker: Callable[[str, str, argparse.Namespace], Any],
    compare: Callable[[str, argparse.Namespace], list[dict[str, Any]]],
) -> None:
    """The command line of a benchmark of cases at three scales, whose implementations run in processes of their own.

    `compare` gives the rows of a case; it starts this script again with `--worker CASE IMPLEMENTATION`, which prints what
    `worker` measured as JSON.
    """
    import torch

    options, cases = parser(description), list(cases)
    options.add_argument("--cases", nargs="+", default=cases, choices=cases, metavar="CASE")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    options.add_argument("--scale", default="full", choices=list(scales))
    options.add_argument("--quick", dest="scale", action="store_const", const="quick", help="--scale quick")
    options.add_argument("--tiny", dest="scale", action="store_const", const="tiny", help="--scale tiny")
    options.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.worker:
        print(json.dumps(worker(*arguments.worker, arguments)))
    else:
        show([line for case in arguments.cases for line in compare(case, arguments)], arguments.json)
