"""1:1 verification as insightface, AdaFace and MagFace compute it, on arrays of embeddings. float64 throughout.

Sources: insightface recognition/arcface_torch/eval/verification.py (accuracy, VAL@FAR, PCA), AdaFace evaluate_utils.py
(the best thresholds), MagFace eval/eval_recognition/eval_1v1.py (mean subtraction, angular distance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from facex.errors import DataError
from facex.eval.folds import ACCURACY_THRESHOLDS, VAL_THRESHOLDS, Counts, count_folds, fold_bounds, rate
from facex.eval.roc import TarRule, auc, equal_error_rate, tar_at_far

_BLOCK = 65536  # rows at a time where a temporary as large as the embeddings would arise
Protocol = Literal["insightface", "magface"]


@dataclass
class PairResult:
    """What a verification run says. Rates are 0..1; `scores` are similarities: minus the distance of each pair."""

    accuracy: float  # mean over folds of the accuracy at the threshold chosen on the other folds
    std: float  # population standard deviation over folds
    fold_accuracy: np.ndarray  # float64 [folds]
    thresholds: np.ndarray  # float64 [folds]: the chosen distances
    tpr: np.ndarray  # float64 [400]: true positive rate per threshold of the grid, mean over folds' test sides
    fpr: np.ndarray
    val: float = float(
        "nan"
    )  # VAL@FAR: mean over folds of the TAR at the threshold where training FAR meets the target
    val_std: float = float("nan")
    val_far: float = float("nan")  # the FAR measured there
    tar_at_far: dict[float, float] = field(default_factory=dict)
    auc: float = float("nan")
    eer: float = float("nan")
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))

    def summary(self) -> dict[str, Any]:
        """The numbers for a JSON file, accuracy first."""
        return {
            "accuracy": self.accuracy,
            "std": self.std,
            "tar@far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()},
            "auc": _none_if_nan(self.auc),
            "eer": _none_if_nan(self.eer),
            "val@far=1e-3": _none_if_nan(self.val),
            "val_std": _none_if_nan(self.val_std),
            "val_far": _none_if_nan(self.val_far),
            "threshold": float(np.mean(self.thresholds)),
            "folds": [float(a) for a in self.fold_accuracy],
            "pairs": len(self.scores),
        }


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def normalize_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length, float64 [n, d]; a zero row stays zero (as scikit-learn's `normalize`)."""
    rows = np.asarray(rows, np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths == 0] = 1.0
    return rows / lengths[:, None]


def squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance of each pair of rows: float64 [n]."""
    out = np.empty(len(left))
    for i in range(0, len(left), _BLOCK):
        out[i : i + _BLOCK] = np.sum(np.square(left[i : i + _BLOCK] - right[i : i + _BLOCK]), 1)
    return out


def angular_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """arccos of the cosine of each pair of rows over pi, 0..1: float64 [n]. A zero row is at right angles to all."""
    out = np.empty(len(left))
    for i in range(0, len(left), _BLOCK):
        a, b = left[i : i + _BLOCK], right[i : i + _BLOCK]
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.einsum("ij,ij->i", a, b) / np.where(lengths == 0, 1.0, lengths)
        out[i : i + _BLOCK] = np.arccos(np.clip(cosine, -1, 1)) / np.pi
    return out


class Distances:
    """Pair distances as fold k sees them; what does not depend on the fold is computed once."""

    def __init__(self, rows: np.ndarray, bounds: np.ndarray, protocol: Protocol, pca: int) -> None:
        self.left, self.right, self.bounds = rows[0::2], rows[1::2], bounds
        self.protocol, self.pca = protocol, pca
        self._fixed = squared_distances(self.left, self.right) if protocol == "insightface" and not pca else None

    def __call__(self, fold: int) -> np.ndarray:
        """float64 [pairs]."""
        if self._fixed is not None:
            return self._fixed
        train = np.ones(len(self.left), bool)
        if len(self.bounds) > 2:
            train[self.bounds[fold] : self.bounds[fold + 1]] = False
        rows = np.concatenate([self.left[train], self.right[train]])
        mean = rows.mean(0)
        if self.protocol == "magface":
            return angular_distances(self.left - mean, self.right - mean)
        axes = principal_axes(rows - mean, self.pca)
        return squared_distances(*(normalize_rows((side - mean) @ axes) for side in (self.left, self.right)))


def principal_axes(centred: np.ndarray, count: int) -> np.ndarray:
    """The `count` directions of largest variance of centred rows [n, d]: float64 [d, count], orthonormal."""
    if not 0 < count <= min(centred.shape):
        raise DataError(f"PCA to {count} dimensions needs 1 to {min(centred.shape)} for rows of shape {centred.shape}")
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return vectors[:, ::-1][:, :count]


def evaluate_pairs(
    embeddings: np.ndarray,
    issame: np.ndarray,
    folds: int = 10,
    *,
    protocol: Protocol = "insightface",
    pca: int = 0,
    fars: Sequence[float] = (1e-2, 1e-3),
    tar_rule: TarRule = "at_most",
    val_far: float | None = 1e-3,
    uneven_folds: bool = False,
) -> PairResult:
    """10-fold verification of `embeddings` [2n, d] (pair i = rows 2i, 2i+1) with labels `issame` [n].

    "insightface": rows are normalised, distance = squared L2; `pca` > 0 projects on axes fitted on the training folds.
    "magface": raw rows, minus the mean of the training folds' rows, distance = angle / pi. Folds are consecutive
    blocks. `val_far` None leaves VAL@FAR out. TAR@FAR, AUC and EER are over all pairs (with a PCA or a mean, as fold 0
    sees them); they stay empty where all pairs are of one kind.
    Raises VerificationSetError for folds that cannot be made, DataError for NaN or infinite embeddings.
    """
    rows, same = _check(embeddings, issame)
    bounds = fold_bounds(len(same), folds, uneven_folds)
    if protocol == "insightface":
        rows = normalize_rows(rows)
    elif protocol != "magface":
        raise DataError(f"unknown protocol {protocol!r}; there are insightface and magface")
    return _evaluate(Distances(rows, bounds, protocol, pca), same, bounds, fars, tar_rule, val_far)


def evaluate_distances(
    distances: np.ndarray,
    issame: np.ndarray,
    folds: int = 10,
    *,
    fars: Sequence[float] = (1e-2, 1e-3),
    tar_rule: TarRule = "at_most",
    val_far: float | None = 1e-3,
    uneven_folds: bool = False,
) -> PairResult:
    """As `evaluate_pairs`, on the distances of the pairs themselves (squared L2 of unit vectors, 0..4): float64 [n].

    Raises VerificationSetError for folds that cannot be made, DataError for NaN.
    """
    d, same = np.asarray(distances, np.float64), np.asarray(issame, bool)
    if d.ndim != 1 or d.shape != same.shape:
        raise DataError(f"distances {d.shape} and labels {same.shape} must be two rows of one length")
    if np.isnan(d).any():
        raise DataError(
            f"{int(np.isnan(d).sum())} of {len(d)} scores are NaN, the first at pair {int(np.argmax(np.isnan(d)))}"
        )
    return _evaluate(lambda fold: d, same, fold_bounds(len(d), folds, uneven_folds), fars, tar_rule, val_far)


def _evaluate(
    distances: Callable[[int], np.ndarray],
    same: np.ndarray,
    bounds: np.ndarray,
    fars: Sequence[float],
    tar_rule: TarRule,
    val_far: float | None,
) -> PairResult:
    counts = count_folds(distances, same, bounds, ACCURACY_THRESHOLDS)
    result = _accuracy(counts)
    if val_far is not None:
        fine = count_folds(distances, same, bounds, VAL_THRESHOLDS)
        result.val, result.val_std, result.val_far = _val(fine, distances, same, bounds, val_far)
    result.scores = -distances(0)
    if same.any() and not same.all():
        result.tar_at_far = tar_at_far(result.scores, same, fars, tar_rule)
        result.auc, result.eer = auc(result.scores, same), equal_error_rate(result.scores, same)
    return result


def _check(embeddings: np.ndarray, issame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, same = np.asarray(embeddings, np.float64), np.asarray(issame, bool)
    if rows.ndim != 2 or same.ndim != 1 or len(rows) != 2 * len(same):
        raise DataError(f"embeddings {rows.shape} for {same.shape} labels: two rows a pair are wanted")
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} of {len(rows)} embeddings hold NaN or infinity, the first is row {int(np.argmax(bad))}:"
            " the network is broken, or its precision overflows"
        )
    return rows, same


def _accuracy(counts: Counts) -> PairResult:
    correct = counts.true_train + counts.impostor_train[:, None] - counts.false_train
    best = np.argmax(correct, axis=1)  # the first maximum
    folds = np.arange(len(best))
    right = counts.true_test[folds, best] + counts.impostor_test - counts.false_test[folds, best]
    accuracy = right / (counts.genuine_test + counts.impostor_test)
    return PairResult(
        float(np.mean(accuracy)),
        float(np.std(accuracy)),
        accuracy,
        ACCURACY_THRESHOLDS[best],
        rate(counts.true_test, counts.genuine_test[:, None]).mean(0),
        rate(counts.false_test, counts.impostor_test[:, None]).mean(0),
    )


def _val(
    counts: Counts, distances: Callable[[int], np.ndarray], same: np.ndarray, bounds: np.ndarray, target: float
) -> tuple[float, float, float]:
    """Mean and deviation of VAL over folds, and mean measured FAR; a fold without genuine (impostor) pairs has no VAL
    (FAR) and is left out of the mean.

    The threshold is interpolated linearly over the training FAR, as SciPy up to 1.7 did; later versions refuse the
    duplicates that every real curve has.
    """
    far_train = rate(counts.false_train, counts.impostor_train[:, None])
    val, far = [], []
    for k in range(len(bounds) - 1):
        reached = far_train[k].max() >= target
        threshold = float(np.interp(target, far_train[k], VAL_THRESHOLDS)) if reached else 0.0
        test = slice(bounds[k], bounds[k + 1])
        accepted, genuine = distances(k)[test] < threshold, same[test]
        if genuine.any():
            val.append(np.sum(accepted & genuine) / np.sum(genuine))
        if not genuine.all():
            far.append(np.sum(accepted & ~genuine) / np.sum(~genuine))
    nan = float("nan")
    return (
        float(np.mean(val)) if val else nan,
        float(np.std(val)) if val else nan,
        float(np.mean(far)) if far else nan,
    )
