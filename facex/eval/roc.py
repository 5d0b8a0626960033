"""Receiver operating characteristic on plain arrays: curve, area, rates at a false-accept rate. float64 throughout.

`scores` are similarities (higher = more alike), `issame` says which pairs are genuine. TAR = share of genuine pairs
accepted, FAR = share of impostor pairs accepted; a pair is accepted when its score is at or above the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from facex.errors import DataError

TarRule = Literal["at_most", "nearest"]


class Roc(NamedTuple):
    """Points of the curve in the order of falling thresholds, each array float64 [m]; the first is (0, 0) at +inf."""

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray


def check_scores(scores: np.ndarray, issame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`scores` as float64 [n] and `issame` as bool [n]. Raises DataError for NaN, other shapes, or one class alone."""
    scores, issame = np.asarray(scores, np.float64), np.asarray(issame)
    if scores.ndim != 1 or scores.shape != issame.shape:
        raise DataError(f"scores {scores.shape} and labels {issame.shape} must be two rows of one length")
    nan = np.isnan(scores)
    if nan.any():
        raise DataError(f"{int(nan.sum())} of {len(scores)} scores are NaN, the first at pair {int(np.argmax(nan))}")
    issame = issame.astype(bool)
    if issame.all() or not issame.any():
        raise DataError(f"all {len(scores)} pairs are {'genuine' if issame.any() else 'impostor'}: no ROC without both")
    return scores, issame


def roc_curve(scores: np.ndarray, issame: np.ndarray, drop_intermediate: bool = True) -> Roc:
    """The ROC at every distinct score. With `drop_intermediate` points on a straight line between their neighbours are
    left out, as scikit-learn's `roc_curve` does by default (the published IJB numbers depend on it)."""
    scores, issame = check_scores(scores, issame)
    order = np.argsort(-scores, kind="stable")
    ordered, genuine = scores[order], issame[order]
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)  # last index of each distinct score
    true = np.cumsum(genuine, dtype=np.int64)[last]
    false = last + 1 - true
    thresholds = ordered[last]
    if drop_intermediate and len(false) > 2:
        kept = np.concatenate([[True], (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0), [True]])
        true, false, thresholds = true[kept], false[kept], thresholds[kept]
    far = np.append(0, false) / false[-1]
    tar = np.append(0, true) / true[-1]
    return Roc(far, tar, np.append(np.inf, thresholds))


def auc(scores: np.ndarray, issame: np.ndarray) -> float:
    """Area under the ROC = the chance that a genuine pair scores above an impostor pair, ties counted half."""
    curve = roc_curve(scores, issame, drop_intermediate=False)
    return float(np.sum(np.diff(curve.far) * (curve.tar[1:] + curve.tar[:-1])) / 2)


def tar_at_far(
    scores: np.ndarray, issame: np.ndarray, fars: Sequence[float], rule: TarRule = "at_most"
) -> dict[float, float]:
    """TAR at each wanted FAR.

    "at_most": the largest TAR among thresholds whose FAR does not exceed the target. "nearest": insightface's IJB rule,
    the kept ROC point of nearest FAR (of equally near ones the larger FAR; of equal FAR the larger TAR): its FAR may
    exceed the target.
    """
    if rule not in ("at_most", "nearest"):
        raise DataError(f"unknown rule {rule!r} for TAR at FAR; there are at_most and nearest")
    curve = roc_curve(scores, issame, drop_intermediate=rule == "nearest")
    result = {}
    for far in fars:
        if not 0 <= far <= 1:
            raise DataError(f"a FAR lies between 0 and 1, not {far}")
        if rule == "at_most":
            point = int(np.searchsorted(curve.far, far, side="right")) - 1
        else:
            point = len(curve.far) - 1 - int(np.argmin(np.abs(curve.far[::-1] - far)))
        result[float(far)] = float(curve.tar[point])
    return result


def equal_error_rate(scores: np.ndarray, issame: np.ndarray) -> float:
    """The error where false accepts and false rejects are equal, by linear interpolation along the ROC."""
    curve = roc_curve(scores, issame, drop_intermediate=False)
    gap = curve.far - (1 - curve.tar)  # rises from -1 to 1
    i = int(np.argmax(gap >= 0))
    t = gap[i] / (gap[i] - gap[i - 1])
    return float(curve.far[i] - t * (curve.far[i] - curve.far[i - 1]))
