"""Error versus reject on the report's page and on the console."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from facex.eval import page, plots
from facex.eval.quality import RejectCurve
from facex.eval.run import SetResult

_SHOWN = (0.0, 0.1, 0.25, 0.5, 0.75)  # reject rates of the table
Rows = list[tuple[str, list[str]]]


def reject_table(curves: Iterable[tuple[str, str, RejectCurve]]) -> tuple[list[str], Rows]:
    """(header, rows of (network, cells)) of (set, network, curve): FNMR at some reject rates, with the measured FMR in
    brackets; a dash where too few impostor pairs are left to measure."""
    header = ["set", "network", *(f"reject {rate:.0%}" for rate in _SHOWN), "area"]
    body = []
    for name, network, curve in curves:
        cells = [name, network.replace("_", " ")]
        for rate in _SHOWN:
            place = int(np.argmin(np.abs(curve.rates - rate)))
            known = place < len(curve.fnmr) and not np.isnan(curve.fnmr[place])
            cells.append(f"{curve.fnmr[place]:.4f} ({curve.fmr[place]:.4f})" if known else "–")
        cells.append("–" if np.isnan(curve.area) else f"{curve.area:.4f}")
        body.append((network, cells))
    return header, body


def reject_section(results: Mapping[str, Mapping[str, SetResult]]) -> list[str]:
    """The page's section on error versus reject, for the sets and networks that have it."""
    names = list(dict.fromkeys(name for by_set in results.values() for name in by_set))
    found = [
        (name, network, by_set[name].reject)
        for name in names
        for network, by_set in results.items()
        if name in by_set and by_set[name].reject is not None
    ]
    curves = [(name, network, curve) for name, network, curve in found if curve is not None]
    if not curves:
        return []
    first = curves[0][2]
    charts = []
    for name in dict.fromkeys(name for name, _, _ in curves):
        of_set = {network: (c.rates, c.fnmr) for other, network, c in curves if other == name}
        title = f"Error versus reject · {name}"
        ylabel = f"FNMR at {'nominal FMR' if first.nominal else 'FMR ≤'} {first.target_fmr:g}"
        charts.append((plots.reject_curves(of_set, title, ylabel), f"error versus reject on {name}"))
    rule = (
        "the threshold is MagFace's nominal one for this rate"
        if first.nominal
        else "the threshold is the largest whose measured FMR does not exceed it"
    )
    note = (
        f"FNMR at a false match rate of {first.target_fmr:g} on the pairs that are left when those of lowest quality (the"
        f" lower of the two faces') are rejected; {rule}, and the measured FMR stands in brackets. A falling curve says"
        " that the quality knows which pairs fail; the dashed line is rejecting at random. No number: too few impostor"
        " pairs are left."
    )
    return [page.section("Error versus reject", note, page.charts(charts), page.table(*reject_table(curves)))]
