"""IJB-B and IJB-C on the console and as a report: tables, ROC, curves under occlusion, `index.html` and `results.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facex import __version__
from facex.eval import page, plots
from facex.eval.ijb_faces import IjbSet
from facex.eval.ijb_rules import IjbNumbers, IjbRules
from facex.eval.ijb_run import IjbPoint, IjbResult
from facex.eval.occlusion_metrics import Mean
from facex.eval.occlusion_page import Rows, mean_text
from facex.files import write_json, write_text

Results = Mapping[str, IjbResult]  # by network


def pairs_table(results: Results) -> tuple[list[str], Rows]:
    """(header, rows of (network, cells)) of 1:1 on clean faces: TAR in per cent at each FAR."""
    listed = list(_clean(results))
    header = ["network", "rules", *map(far_text, listed[0][2].tar), "AUC", "images/s"]
    body = []
    for network, rules, numbers in listed:
        cells = [_shown(network), rules, *(f"{tar:.2%}"[:-1] for tar in numbers.tar.values()), f"{numbers.auc:.5f}"]
        body.append((network, [*cells, f"{results[network].images_per_second:.0f}"]))
    return header, body


def search_table(results: Results) -> tuple[list[str], Rows]:
    """(header, rows) of 1:N on clean faces, in per cent; no rows where it was not asked for."""
    listed = [(network, rules, n.search) for network, rules, n in _clean(results) if n.search is not None]
    header, body = ["network", "rules"], []
    for network, rules, found in listed:
        header = ["network", "rules", *(f"rank-{rank}" for rank in found.rates)]
        header += [f"TPIR@{far:g}" for far in found.tpir]
        rates = [*found.rates.values(), *found.tpir.values()]
        body.append((network, [_shown(network), rules, *(f"{rate:.2%}"[:-1] for rate in rates)]))
    return header, body


def occluded_table(results: Results, all_fars: bool = True) -> tuple[list[str], Rows]:
    """(header, rows) of every condition, in per cent, the networks side by side; no rows where nothing was occluded.
    Without `all_fars` the one on which papers compare and its neighbours."""
    listed = list(_points(results))
    fars = list(next(_clean(results))[2].tar)
    middle = fars.index(_middle(fars))
    fars = fars if all_fars else fars[max(middle - 1, 0) : middle + 2]
    header = ["network", "rules", "occlusion", *map(far_text, fars)]
    searched = any(point.rank(rules, 1) is not None for _, rules, point in listed)
    header += ["rank-1"] if searched else []
    body = []
    for network, rules, point in listed if len(next(iter(results.values())).points) > 1 else ():
        cells = [_shown(network), rules, point.condition.name, *(_per_cent(point.tar(rules, far)) for far in fars)]
        body.append((network, cells + ([_per_cent(point.rank(rules, 1))] if searched else [])))
    return header, body


def far_text(far: float) -> str:
    """1e-6, 2.5e-3."""
    digits, _, exponent = f"{far:e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


def as_numbers(one: IjbSet, rules: Mapping[str, IjbRules], results: Results) -> dict[str, Any]:
    """`{"set", "faces", ..., "rules": settings by name, "networks": numbers by network}` as plain numbers."""
    lists = one.lists
    return {
        "set": lists.target,
        "faces": len(lists.faces.names),
        "templates": len(np.unique(lists.faces.templates)),
        "pairs": len(lists.issame),
        "genuine_pairs": int(lists.issame.sum()),
        "probes": 0 if lists.probes is None else len(lists.probes.templates),
        "skipped": {"faces": one.skipped_faces, "pairs": one.skipped_pairs},
        "rules": {name: each.summary() for name, each in rules.items()},
        "networks": {network: result.summary() for network, result in results.items()},
    }


def write_ijb_report(
    folder: str | Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    one: IjbSet,
    rules: Mapping[str, IjbRules],
    results: Results,
) -> Path:
    """Write `index.html` and `results.json` into `folder`; the path of the page. No face is shown: they are of real
    people."""
    folder, lists = Path(folder), one.lists
    write_json(folder / "results.json", {"ijb": as_numbers(one, rules, results)})
    counts = [("faces", f"{len(lists.faces.names):,}"), ("templates", f"{len(np.unique(lists.faces.templates)):,}")]
    counts.append(("pairs", f"{len(lists.issame):,} ({int(lists.issame.sum()):,} genuine)"))
    if one.skipped_faces:
        counts.append(("left out", f"{one.skipped_faces:,} faces and {one.skipped_pairs:,} pairs, pictures missing"))
    parts = [page.tiles(_headline(results)), *_pairs(one, results), *_search(results), *_under_occlusion(results)]
    footer = f"Written by facex {__version__}; numbers beside it in results.json."
    write_text(folder / "index.html", page.page(title, [*facts, *counts], parts, footer))
    return folder / "index.html"


def _headline(results: Results) -> list[tuple[str, str]]:
    _, rules, numbers = next(_clean(results))
    far = _middle(list(numbers.tar))
    items = [
        (f"{numbers.tar[far]:.2%}", f"TAR at FAR {far_text(far)} ({rules})"),
        (f"{numbers.auc:.5f}", "area under the ROC"),
    ]
    if numbers.search is not None:
        rank, rate = next(iter(numbers.search.rates.items()))
        items.append((f"{rate:.2%}", f"rank-{rank} identification"))
    return items


def _pairs(one: IjbSet, results: Results) -> list[str]:
    note = (
        "1:1 of templates: TAR in per cent at each FAR. The rules say how faces become templates and how TAR is read off; those of the official scripts"
        " take the point of the curve whose FAR is nearest, which may exceed the one at the head of a column."
    )
    impostors = int(np.sum(~one.lists.issame))
    charts = []
    for rules in next(iter(results.values())).clean:
        curves = {network: (result.clean[rules].curve, impostors) for network, result in results.items()}
        charts.append((plots.roc_lines(curves, f"ROC · {one.name} · {rules}"), f"ROC of {one.name} by {rules}"))
    return [page.section("Verification", note, page.charts(charts), page.table(*pairs_table(results)))]


def _search(results: Results) -> list[str]:
    header, body = search_table(results)
    note = (
        "Probes against the galleries, in per cent: their person is among the best 1, 5, 10; or is found with so large a share"
        " of false alarms allowed (TPIR at FPIR)."
    )
    return [page.section("Identification", note, page.table(header, body))] if body else []


def _under_occlusion(results: Results) -> list[str]:
    table = occluded_table(results)
    if not table[1]:
        return []
    first = next(iter(results.values()))
    charts = []
    for rules, numbers in first.clean.items():
        far = _middle(list(numbers.tar))
        series = {network: _series(result, rules, far) for network, result in results.items()}
        if all(len(area) > 1 for area, _, _ in series.values()):
            png = plots.occlusion_curves(series, f"TAR under blocks · {rules}", f"TAR at FAR {far_text(far)}")
            charts.append((png, f"TAR under blocks by {rules}"))
    note = (
        f"Every face is occluded, the same for every network, and its mirror image shows the same occlusion; blocks are"
        f" {first.protocol.fill}. Rates are means over {first.protocol.repeats} draws, ± is the 95 % interval of the mean."
    )
    shown = [page.charts(charts)] if charts else []
    return [page.section("Under occlusion", note, *shown, page.table(*table))]


def _series(result: IjbResult, rules: str, far: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(area in per cent, TAR, half-width of its interval) of the blocks."""
    points = [point for point in result.points if point.condition.ratio is not None]
    means = [point.tar(rules, far) for point in points]
    area = np.array([point.condition.ratio for point in points], float)
    return area, np.array([m.value for m in means]), np.array([m.half_width for m in means])


def _middle(fars: list[float]) -> float:
    """1e-4, on which papers compare, or else the middle one."""
    return 1e-4 if 1e-4 in fars else fars[len(fars) // 2]


def _clean(results: Results) -> Iterator[tuple[str, str, IjbNumbers]]:
    """(network, rules, numbers) of the clean faces, rules by rules."""
    for rules in next(iter(results.values())).clean:
        yield from ((network, rules, result.clean[rules]) for network, result in results.items())


def _points(results: Results) -> Iterator[tuple[str, str, IjbPoint]]:
    """(network, rules, point): rules by rules, condition by condition, the networks side by side."""
    first = next(iter(results.values()))
    for rules in first.clean:
        for place in range(len(first.points)):
            yield from ((network, rules, result.points[place]) for network, result in results.items())


def _per_cent(mean: Mean | None) -> str:
    return "–" if mean is None else mean_text(Mean(100 * mean.value, 100 * mean.half_width), 2)


def _shown(network: str) -> str:
    return network.replace("_", " ")
