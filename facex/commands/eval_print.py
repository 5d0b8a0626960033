"""What `facex eval` says: tables on the console, plain numbers for JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from facex.eval.occlusion_page import as_numbers, difference_table, occlusion_table
from facex.eval.quality_page import reject_table
from facex.eval.report import number, rows

if TYPE_CHECKING:
    from rich.console import Console

    from facex.eval.ar_database import ArResult
    from facex.eval.ijb_run import IjbResult
    from facex.eval.occlusion_page import Curves
    from facex.eval.run import SetResult

Results = dict[str, dict[str, "SetResult"]]
_BASELINES = ("raw_pixels", "untrained")


def as_json(results: Results, first: str = "trained", curves: Curves | None = None) -> dict[str, dict[str, Any]]:
    """`{set: {"accuracy": ..., ..., "baselines": {network: ...}, "compared": {network: ...}, "occlusion": ...}}`, the
    numbers of the network called `first`; what there is none of is left out."""
    numbers: dict[str, dict[str, Any]] = {name: r.summary() for name, r in results[first].items()}
    for network, by_set in results.items():
        group = "baselines" if network in _BASELINES else "compared"
        for name, result in by_set.items():
            if network != first:
                numbers[name].setdefault(group, {})[network] = result.summary()
    for name, found in (as_numbers(curves) if curves else {}).items():
        numbers[name]["occlusion"] = found
    return numbers


def print_results(results: Results, first: str = "trained", curves: Curves | None = None) -> None:
    """The results on the console, set by set."""
    listed = rows(results)
    fars = list(dict.fromkeys(far for row in listed for far in row["tar@far"]))
    header = ["set", "network", "accuracy", *(f"TAR@{far}" for far in fars), "AUC", "images/s"]
    body = []
    for row in listed:
        tars = [f"{row['tar@far'][far]:.3f}" if far in row["tar@far"] else "-" for far in fars]
        speed = f"{row['images/s']:.0f}" if "images/s" in row else "-"
        accuracy = f"{row['accuracy']:.4f} ± {row['std']:.4f}"
        cells = [row["set"], row["network"].replace("_", " "), accuracy, *tars, number(row["auc"]), speed]
        body.append((row["network"], cells))
    console = _console()
    _print(console, "1:1 verification", header, body, first)
    rejected = [(name, n, r.reject) for n, sets in results.items() for name, r in sets.items() if r.reject is not None]
    if rejected:
        _print(console, "error versus reject: FNMR (measured FMR)", *reject_table(rejected), first)
    if curves:
        title = "verification under occlusion: mean ± 95 % interval over the draws"
        _print(console, title, *occlusion_table(curves), first, left=3)
        header, body = difference_table(curves)
        if body:
            _print(console, "paired by draw", header, body, first, left=3)


def print_ar(found: Mapping[str, ArResult]) -> None:
    """The rates on the AR database."""
    header = ["network", "sunglasses", "scarf", "probes", "gallery"]
    body = []
    for name, result in found.items():
        gallery = f"{result.people} people, pictures {' '.join(map(str, result.gallery))}"
        probes = f"{result.probes[0]} + {result.probes[1]}" + (f" ({result.skipped} skipped)" if result.skipped else "")
        body.append((name, [name, f"{result.sunglasses:.4f}", f"{result.scarf:.4f}", probes, gallery]))
    _print(_console(), "AR database, rank-1 identification", header, body, next(iter(found)), left=1)


def print_ijb(name: str, results: Mapping[str, IjbResult]) -> None:
    """1:1, 1:N and what occlusion does to them."""
    from facex.eval.ijb_page import occluded_table, pairs_table, search_table

    console, first = _console(), next(iter(results))
    for what, (header, body) in (
        ("1:1 verification, TAR (%) at FAR", pairs_table(results)),
        ("1:N identification, %", search_table(results)),
        ("under occlusion, TAR (%) at FAR: mean ± 95 % interval over the draws", occluded_table(results, False)),
    ):
        if body:
            _print(console, f"{name}, {what}", header, body, first, left=3 if "occlusion" in header else 2)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def _print(
    console: Console,
    title: str,
    header: Sequence[str],
    body: Iterable[tuple[str, Sequence[str]]],
    bold: str,
    left: int = 2,
) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    for kind, cells in body:
        table.add_row(*cells, style="bold" if kind == bold else None)
    console.print(table)
