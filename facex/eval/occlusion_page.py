"""Verification under occlusion on the report's page and on the console: curves, tables, differences, segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from facex.eval import page, plots
from facex.eval.occlusion import OcclusionCurve, OcclusionPoint
from facex.eval.occlusion_metrics import Mean

Curves = Mapping[str, Mapping[str, OcclusionCurve]]  # [network][set]
Rows = list[tuple[str, list[str]]]


def occlusion_table(curves: Curves) -> tuple[list[str], Rows]:
    """(header, rows of (network, cells)): a row a set, condition and network."""
    fars = list(dict.fromkeys(far for _, point, _ in _points(curves) for far in point.tars))
    masks = any(point.iou is not None for _, point, _ in _points(curves))
    header = ["set", "network", "occlusion", "area", "accuracy", *(f"TAR@FAR {far:g}" for far in fars)]
    header += ["IoU occluded", "IoU clean"] if masks else []
    body = []
    for network, point, name in _points(curves):
        cells = [name, network.replace("_", " "), point.condition.name, f"{point.area:.1%}", mean_text(point.accuracy)]
        cells += [mean_text(point.tar(far), 3) if far in point.tars else "–" for far in fars]
        if masks:
            rates = (point.iou.occluded, point.iou.clean) if point.iou is not None else (np.nan, np.nan)
            cells += ["–" if np.isnan(rate) else f"{rate:.3f}" for rate in rates]
        body.append((network, cells))
    return header, body


def difference_table(curves: Curves) -> tuple[list[str], Rows]:
    """(header, rows): by how much the first network's accuracy exceeds each other's; no rows with one network."""
    first, *others = curves
    header = ["set", "networks", "occlusion", "difference of accuracy"]
    body = []
    for other in others:
        for name in curves[first]:
            if name not in curves[other]:
                continue
            one, two = curves[first][name], curves[other][name]
            for point, difference in zip(one.points, one.difference(two), strict=True):
                label = f"{first} − {other}".replace("_", " ")
                body.append(("", [name, label, point.condition.name, mean_text(difference, sign=True)]))
    return header, body


def occlusion_section(curves: Curves, chances: Mapping[str, float] | None = None) -> list[str]:
    """The page's section; `chances` are the accuracies that guessing reaches, by set."""
    names = list(dict.fromkeys(name for by_set in curves.values() for name in by_set))
    charts = [chart for name in names for chart in _charts(curves, name, (chances or {}).get(name))]
    first = next(iter(next(iter(curves.values())).values())).protocol
    parts = [page.charts(charts), page.table(*occlusion_table(curves))]
    differences = difference_table(curves)
    if differences[1]:
        parts.append(page.table(*differences))
    shown = "both pictures" if first.both else "one picture"
    flips = "an occlusion of its own" if first.flip_occlusion == "independent" else "the same occlusion, mirrored"
    note = (
        f"Occluders on {shown} of every pair, {first.repeats} draws of each condition, the same for every network; blocks are"
        f" {first.fill}, and the mirrored view has {flips}. Accuracy is the mean over the draws; ± is the 95 % interval"
        " of that mean, which says how much the place of the occluder matters, not how few the pairs are."
    )
    if any(point.iou is not None for _, point, _ in _points(curves)):
        note += " IoU compares the network's occlusion map with the true mask, over all pixels of the set."
    return [page.section("Verification under occlusion", note, *parts)]


def as_numbers(curves: Curves) -> dict[str, Any]:
    """`{set: {network: curve, "differences": {network: [...]}}}` as plain numbers, differences from the first
    network's."""
    first, *others = curves
    numbers: dict[str, Any] = {}
    for network, by_set in curves.items():
        for name, curve in by_set.items():
            numbers.setdefault(name, {"networks": {}})["networks"][network] = curve.summary()
    for other in others:
        for name, curve in curves[other].items():
            if name in curves[first]:
                found = curves[first][name].difference(curve)
                rows = [{"mean": m.value, "interval": None if np.isnan(m.half_width) else m.half_width} for m in found]
                numbers[name].setdefault("differences", {})[other] = rows
    return numbers


def mean_text(mean: Mean, digits: int = 4, sign: bool = False) -> str:
    """`0.9512 ± 0.0021`; without an interval the mean alone."""
    text = f"{mean.value:{'+' if sign else ''}.{digits}f}"
    return text if np.isnan(mean.half_width) else f"{text} ± {mean.half_width:.{digits}f}"


def _points(curves: Curves) -> Iterator[tuple[str, OcclusionPoint, str]]:
    """(network, point, set): set by set, condition by condition, the networks side by side."""
    for name in dict.fromkeys(name for by_set in curves.values() for name in by_set):
        have = [(network, by_set[name].points) for network, by_set in curves.items() if name in by_set]
        for place in range(len(have[0][1])):
            yield from ((network, points[place], name) for network, points in have)


def _charts(curves: Curves, name: str, chance: float | None) -> list[tuple[bytes, str]]:
    of_set = {network: by_set[name].points for network, by_set in curves.items() if name in by_set}
    charts = []
    blocks = {n: [p for p in points if p.condition.occluder == "block"] for n, points in of_set.items()}
    if all(len(points) > 1 for points in blocks.values()):
        series = {n: (np.array([p.condition.ratio for p in v], float), *_rates(v)) for n, v in blocks.items()}
        title = f"Accuracy under blocks · {name}"
        charts.append((plots.occlusion_curves(series, title, "accuracy", chance), f"accuracy under blocks on {name}"))
    rest = {n: [p for p in points if p not in blocks[n]] for n, points in of_set.items()}
    if any(p.condition.occluder != "none" for points in rest.values() for p in points):
        named = {n: ([p.condition.name for p in v], *_rates(v)) for n, v in rest.items()}
        title = f"Accuracy by occluder · {name}"
        charts.append((plots.condition_points(named, title, "accuracy"), f"accuracy by occluder on {name}"))
    masks = {n: [p for p in points if p.iou is not None and p.area > 0] for n, points in blocks.items()}
    masks = {n: points for n, points in masks.items() if len(points) > 1}
    if masks:
        area = {n: np.array([p.condition.ratio for p in v], float) for n, v in masks.items()}
        iou = {n: np.array([p.iou.mean if p.iou else np.nan for p in v]) for n, v in masks.items()}
        lines = {n: (area[n], iou[n], np.full(len(area[n]), np.nan)) for n in masks}
        charts.append(
            (
                plots.occlusion_curves(lines, f"Segmentation · {name}", "mean IoU"),
                f"segmentation of occluders on {name}",
            )
        )
    return charts


def _rates(points: Sequence[OcclusionPoint]) -> tuple[np.ndarray, np.ndarray]:
    means = [point.accuracy for point in points]
    return np.array([m.value for m in means]), np.array([m.half_width for m in means])
