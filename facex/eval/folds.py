"""Cross-validated thresholds on distances of pairs, by counting: exact integers, no pairs × thresholds array."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from facex.errors import VerificationSetError

# The grids of insightface's and MagFace's evaluation; the values are numpy.arange's, rounding included.
ACCURACY_THRESHOLDS = np.arange(0, 4, 0.01)
VAL_THRESHOLDS = np.arange(0, 4, 0.001)


def fold_bounds(pairs: int, folds: int, uneven: bool = False) -> np.ndarray:
    """Where the `folds` consecutive blocks of pairs begin and end: int64 [folds + 1].

    With `uneven` the first pairs % folds blocks have one pair more, as scikit-learn's KFold without shuffling.
    Raises VerificationSetError if there are too few pairs, or if they do not divide and `uneven` is not set.
    """
    if folds < 1:
        raise VerificationSetError(f"{folds} folds: at least one is needed")
    if pairs < folds:
        raise VerificationSetError(f"{pairs} pairs cannot make {folds} folds; ask for at most {pairs}")
    if pairs % folds and not uneven:
        raise VerificationSetError(
            f"{pairs} pairs do not divide into {folds} equal folds; choose another number, or allow uneven folds"
        )
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.concatenate([[0], np.cumsum(sizes)])


@dataclass
class Counts:
    """Per fold: how many genuine and impostor pairs there are (int64 [folds]), and how many of them are accepted (their
    distance lies below the threshold) on the training and on the test side (int64 [folds, thresholds])."""

    genuine_train: np.ndarray
    impostor_train: np.ndarray
    genuine_test: np.ndarray
    impostor_test: np.ndarray
    true_train: np.ndarray
    false_train: np.ndarray
    true_test: np.ndarray
    false_test: np.ndarray


def count(distances: np.ndarray, issame: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(genuine, impostor) pairs whose distance lies strictly below each threshold: int64 [thresholds] each."""
    result = [np.searchsorted(np.sort(distances[issame == same]), thresholds, side="left") for same in (True, False)]
    return result[0], result[1]


def count_folds(
    distances: Callable[[int], np.ndarray], issame: np.ndarray, bounds: np.ndarray, thresholds: np.ndarray
) -> Counts:
    """Counts of all folds. `distances(k)` gives every pair's distance as fold k sees it (a PCA or a mean may be fitted
    on its training side). With a single fold, training and test side are all pairs."""
    folds = len(bounds) - 1
    names = list(Counts.__dataclass_fields__)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for k in range(folds):
        d = distances(k)
        test = np.zeros(len(d), bool)
        test[bounds[k] : bounds[k + 1]] = True
        train = ~test if folds > 1 else test
        for side, mask in (("train", train), ("test", test)):
            true, false = count(d[mask], issame[mask], thresholds)
            rows[f"true_{side}"].append(true)
            rows[f"false_{side}"].append(false)
            rows[f"genuine_{side}"].append(np.sum(issame[mask]))
            rows[f"impostor_{side}"].append(np.sum(~issame[mask]))
    return Counts(**{name: np.stack(rows[name]) for name in names})


def rate(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is nothing to take a share of (as the official code does)."""
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
