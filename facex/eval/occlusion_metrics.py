"""Numbers of the occlusion protocols on plain arrays, vectorised: MSML's two extra rates, and means with intervals.

Source: MSML (Yuan et al., AAAI 2022), the evaluation of its official code. `scores` are similarities (higher = more
alike), `issame` says which pairs are genuine; float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facex.errors import DataError
from facex.eval.roc import check_scores, roc_curve


class Mean(NamedTuple):
    """A mean over repeats and the half-width of its confidence interval (NaN where there is one repeat)."""

    value: float
    half_width: float


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Mean:
    """Mean of repeated measurements [n] with Student's t interval at `level`. Raises DataError for none, or NaN."""
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found) or np.isnan(found).any():
        raise DataError(f"measurements {found.tolist()}: one row of numbers is wanted")
    if len(found) == 1:
        return Mean(float(found[0]), float("nan"))
    return Mean(
        float(found.mean()), t_quantile(level, len(found) - 1) * float(found.std(ddof=1)) / math.sqrt(len(found))
    )


def t_quantile(level: float, freedom: int) -> float:
    """The t with which Student's distribution of `freedom` degrees has the probability `level` in -t..t, found by
    bisection on its closed form for whole degrees (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    if not 0 < level < 1 or freedom < 1:
        raise DataError(f"level {level} with {freedom} degrees of freedom: 0 < level < 1 and at least 1 are wanted")
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(-t < T < t)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def equal_error_accuracy(scores: np.ndarray, issame: np.ndarray) -> float:
    """MSML's "accuracy": the share of impostor pairs refused at the ROC point where it is nearest to the share of
    genuine pairs accepted (the first such point of scikit-learn's curve from the largest distance downwards)."""
    values, same = check_scores(scores, issame)
    curve = roc_curve(-values, ~same)  # refusing an impostor is the positive outcome
    return float(curve.tar[int(np.argmin(np.abs(curve.tar - (1 - curve.far))))])


def tar_at_far_candidates(
    scores: np.ndarray, issame: np.ndarray, fars: Sequence[float], last_zero: bool = False
) -> dict[float, float]:
    """MSML's TAR@FAR: thresholds are the impostors' distances T with (impostors nearer than T) / n ≤ FAR, and TAR is
    the largest (genuine at T or nearer) / n among them; n is half the pairs for both, so balanced sets are assumed.

    `last_zero` leaves the last rate at 0, as the official table does. Raises DataError for pairs of one kind, NaN, or
    a FAR outside 0..1.
    """
    values, same = check_scores(scores, issame)
    half = len(values) // 2
    impostors, genuine = np.sort(-values[~same]), np.sort(-values[same])
    nearer = np.searchsorted(impostors, impostors, side="left") / half  # rises with T, and is 0 for the first
    result = {}
    for far in fars:
        if not 0 <= far <= 1:
            raise DataError(f"a FAR lies between 0 and 1, not {far}")
        threshold = impostors[np.searchsorted(nearer, far, side="right") - 1]
        result[float(far)] = float(np.searchsorted(genuine, threshold, side="right") / half)
    if last_zero and result:
        result[float(fars[-1])] = 0.0
    return result
