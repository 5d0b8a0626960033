"""The numbers of `facex sarface-report`: tables for the console and the page, and the record for results.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facex_sarface.mask_trials import FULL, MASKED, RANDOM, WITHOUT, Trials, names_of

Table = tuple[list[str], list[list[str]]]


def accuracy_table(trials: Sequence[Trials]) -> Table:
    """(header, rows): the accuracy of every mask on every set, and the share of the pixels that it keeps."""
    header = ["mask", *(text for one in trials for text in (one.name, "area"))]
    rows = [[name, *_cells(trials, name)] for name in (FULL, MASKED)]
    averaged = [f"{RANDOM} of the same area"]
    for one in trials:
        mean = one.random()
        spread = "" if np.isnan(mean.half_width) else f" ± {mean.half_width:.4f}"
        averaged += [f"{mean.value:.4f}{spread}", f"{_random_area(one):.1%}"]
    rows.append(averaged)
    rows += [[name, *_cells(trials, name)] for name in names_of(trials, WITHOUT)]
    return header, rows


def keep_table(trials: Sequence[Trials]) -> Table:
    """(header, rows): how often the policy keeps each region, of the pictures that show it."""
    header = ["region", *(text for one in trials for text in (f"kept on {one.name}", "shown"))]
    names = list(dict.fromkeys(name for one in trials for name in one.keep_rate))
    rows = [
        [name, *(f"{share:.1%}" for one in trials for share in one.keep_rate.get(name, (float("nan"),) * 2))]
        for name in names
    ]
    return header, rows


def as_numbers(trials: Sequence[Trials]) -> dict[str, Any]:
    """`{set: {full, masked, random, without, keep_rate, masked - full, masked - random}}` as plain numbers."""
    return {one.name: _numbers(one) for one in trials}


def _numbers(one: Trials) -> dict[str, Any]:
    mean = one.random()
    without = [name for name in one.results if name.startswith(WITHOUT)]
    masked = one.results[MASKED].accuracy
    return {
        FULL: _mask(one, FULL),
        MASKED: _mask(one, MASKED),
        RANDOM: {
            "accuracy": mean.value,
            "interval": None if np.isnan(mean.half_width) else mean.half_width,
            "draws": [one.results[name].accuracy for name in one.draws],
            "area": _random_area(one),
        },
        "masked - full": masked - one.results[FULL].accuracy,
        "masked - random masks": masked - mean.value,
        WITHOUT: {name.removeprefix(f"{WITHOUT} "): _mask(one, name) for name in without},
        "keep_rate": {name: {"kept": kept, "shown": shown} for name, (kept, shown) in one.keep_rate.items()},
    }


def _mask(one: Trials, name: str) -> dict[str, float]:
    result = one.results[name]
    return {"accuracy": result.accuracy, "auc": result.auc, "eer": result.eer, "area": one.area[name]}


def _random_area(one: Trials) -> float:
    return float(np.mean([one.area[name] for name in one.draws]))


def _cells(trials: Sequence[Trials], name: str) -> list[str]:
    return [text for one in trials for text in (f"{one.results[name].accuracy:.4f}", f"{one.area[name]:.1%}")]
