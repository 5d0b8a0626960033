"""FaceX-Zoo's form of the LFW protocol, for comparing with its table. float64.

Source: FaceX-Zoo test_protocol/lfw, evaluator: cosine, a grid of 1000 thresholds between the training scores, the
threshold of largest TPR - FPR, and the standard error of the mean instead of the deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facex.errors import VerificationSetError
from facex.eval.folds import fold_bounds
from facex.eval.roc import check_scores
from facex.eval.verification import normalize_rows

THRESHOLDS = 1000


@dataclass
class FacexZooResult:
    """`accuracy` is the mean over folds, `standard_error` its error: deviation (ddof 1) over sqrt(folds)."""

    accuracy: float
    standard_error: float
    fold_accuracy: np.ndarray  # float64 [folds]
    thresholds: np.ndarray  # float64 [folds]


def evaluate_facexzoo(
    embeddings: np.ndarray, issame: np.ndarray, folds: int = 10, *, uneven_folds: bool = False
) -> FacexZooResult:
    """Accuracy of `embeddings` [2n, d] (pair i = rows 2i, 2i + 1) with labels `issame` [n], in consecutive folds.

    A score equal to the threshold is wrong on both sides. Raises VerificationSetError for folds that cannot be made or
    whose training pairs are of one kind, DataError for NaN.
    """
    rows = normalize_rows(embeddings)
    scores, same = check_scores(np.einsum("ij,ij->i", rows[0::2], rows[1::2]), issame)
    if folds < 2:
        raise VerificationSetError(f"{folds} folds: this protocol needs at least two")
    bounds = fold_bounds(len(same), folds, uneven_folds)
    accuracy, thresholds = np.empty(folds), np.empty(folds)
    for k in range(folds):
        test = np.zeros(len(same), bool)
        test[bounds[k] : bounds[k + 1]] = True
        thresholds[k] = _threshold(scores[~test], same[~test], k)
        right = np.where(same, scores > thresholds[k], scores < thresholds[k])
        accuracy[k] = np.mean(right[test])
    error = float(np.std(accuracy, ddof=1) / np.sqrt(folds))
    return FacexZooResult(float(np.mean(accuracy)), error, accuracy, thresholds)


def _threshold(scores: np.ndarray, same: np.ndarray, fold: int) -> float:
    if same.all() or not same.any():
        raise VerificationSetError(f"fold {fold}: all training pairs are of one kind; no threshold can be chosen")
    low, high = scores.min(), scores.max()
    grid = low + (high - low) / THRESHOLDS * np.arange(1, THRESHOLDS + 1)
    above = [len(s) - np.searchsorted(s, grid, side="right") for s in (np.sort(scores[same]), np.sort(scores[~same]))]
    return float(grid[np.argmax(above[0] / same.sum() - above[1] / (~same).sum())])
