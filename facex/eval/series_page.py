"""Accuracy over a number that networks differ in (labelled images of each identity, epochs, width, ...), on the report's page.

Networks of one arm are called ARM@NUMBER.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from facex.errors import ConfigError
from facex.eval import page, plots
from facex.eval.run import SetResult

Results = Mapping[str, Mapping[str, SetResult]]  # [network][set]
Series = dict[str, dict[str, dict[float, float]]]  # [set][arm][number] = accuracy


def split_name(network: str) -> tuple[str, float] | None:
    """(arm, number) of a name ARM@NUMBER; None for other names."""
    arm, separator, text = network.rpartition("@")
    try:
        number = float(text)
    except ValueError:
        return None
    return (arm, number) if separator and arm and math.isfinite(number) else None


def check_names(networks: Iterable[str]) -> None:
    """ConfigError where there is nothing to draw over: less than two networks called ARM@NUMBER with different
    numbers."""
    networks = list(networks)
    places = [found for found in map(split_name, networks) if found is not None]
    numbers = {number for _, number in places}
    if min(numbers, default=1) <= 0:
        raise ConfigError(f"--axis: {min(numbers):g} has no place on a logarithmic axis; numbers must be above 0")
    if doubled := [f"{arm}@{number:g}" for arm, number in places if places.count((arm, number)) > 1]:
        raise ConfigError(f"--axis: two networks are {doubled[0]}; an arm has one at each number")
    if len(numbers) < 2:
        raise ConfigError(
            f"--axis needs networks called ARM@NUMBER with at least two numbers (--name LAFS@1 --compare LAFS@2=FOLDER ...); "
            f"they are called {', '.join(networks)}"
        )


def series(results: Results) -> Series:
    """The accuracies of the networks called ARM@NUMBER, arms in the order of their first network, numbers ascending."""
    found: Series = {}
    for network, by_set in results.items():
        if (place := split_name(network)) is None:
            continue
        for name, result in by_set.items():
            found.setdefault(name, {}).setdefault(place[0], {})[place[1]] = result.pairs.accuracy
    return {name: {arm: dict(sorted(points.items())) for arm, points in arms.items()} for name, arms in found.items()}


def series_section(results: Results, axis: str) -> str:
    """A chart and a table a set; `axis` says what the numbers are."""
    pairs = {name: len(result.issame) for by_set in results.values() for name, result in by_set.items()}
    parts = []
    for name, arms in series(results).items():
        lines = {
            arm: (np.array(list(points)), np.array(list(points.values())), _intervals(points.values(), pairs[name]))
            for arm, points in arms.items()
        }
        numbers = sorted({x for points in arms.values() for x in points})
        chart = plots.occlusion_curves(lines, f"Accuracy · {name}", "accuracy", xlabel=axis, marks=numbers)
        parts.append(page.charts([(chart, f"accuracy on {name} over {axis}")]))
        cells = [[f"{points[x]:.4f}" if x in points else "–" for x in numbers] for points in arms.values()]
        body = [("", [name, arm, *row]) for arm, row in zip(arms, cells, strict=True)]
        parts.append(page.table(["set", axis, *(f"{x:g}" for x in numbers)], body))
    note = "Bars are the 95 % interval of an accuracy over so many pairs; what the networks of one number share, it does not hold."
    return page.section(f"Accuracy over {axis}", note, *parts)


def _intervals(accuracies: Iterable[float], pairs: int) -> np.ndarray:
    """Half-widths of the binomial 95 % intervals, by the normal approximation."""
    rates = np.array(list(accuracies))
    return 1.96 * np.sqrt(rates * (1 - rates) / max(pairs, 1))


def series_numbers(results: Results, axis: str) -> dict[str, Any]:
    """What results.json holds: {"axis", "sets": {set: {arm: [{"at", "accuracy"}]}}}."""
    sets = {
        name: {arm: [{"at": x, "accuracy": a} for x, a in points.items()] for arm, points in arms.items()}
        for name, arms in series(results).items()
    }
    return {"axis": axis, "sets": sets}
