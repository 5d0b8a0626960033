"""The ROC and what is read off it, against scikit-learn and against counting every pair."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from facex.errors import DataError
from facex.eval.roc import auc, equal_error_rate, roc_curve, tar_at_far


def scores(n: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.4
    values = rng.normal(size=n) + 1.2 * same
    return (np.round(values, 1) if ties else values), same


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_curve_is_scikit_learns(n: int, drop: bool, ties: bool) -> None:
    values, same = scores(n, n, ties)
    same[:2] = True, False
    far, tar, thresholds = metrics.roc_curve(same, values, drop_intermediate=drop)
    ours = roc_curve(values, same, drop)
    assert np.array_equal(ours.far, far)
    assert np.array_equal(ours.tar, tar)
    assert np.array_equal(ours.thresholds[1:], thresholds[1:])
    assert auc(values, same) == pytest.approx(metrics.roc_auc_score(same, values), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_at_most_against_counting_100000_scores(ties: bool) -> None:
    values, same = scores(100_000, 1, ties)
    fars = [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0]
    got = tar_at_far(values, same, fars)
    genuine, impostor = values[same], np.sort(values[~same])[::-1]
    for far in fars:
        allowed = int(np.floor(far * len(impostor) + 1e-9))
        # the lowest threshold that accepts no more than the allowed impostors: just above the next one
        want = np.mean(genuine > impostor[allowed]) if allowed < len(impostor) else 1.0
        assert got[far] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_nearest_is_insightfaces_ijb_rule(seed: int) -> None:
    """eval_ijbc.py: flip the kept ROC points, take the smallest |FPR - target|, the first of equal ones."""
    values, same = scores(500, seed, ties=seed % 2 == 0)
    fpr, tpr, _ = metrics.roc_curve(same, values)
    fpr, tpr = np.flipud(fpr), np.flipud(tpr)
    fars = [1e-6, 1e-3, 1e-2, 0.05, 0.1]
    got = tar_at_far(values, same, fars, "nearest")
    for far in fars:
        _, index = min(zip(abs(fpr - far), range(len(fpr)), strict=True))
        assert got[far] == tpr[index]


def test_equal_error_rate() -> None:
    values, same = scores(100_000, 2)
    rate = equal_error_rate(values, same)
    threshold = np.quantile(values[~same], 1 - rate)
    assert np.mean(values[same] < threshold) == pytest.approx(rate, abs=1e-4)
    assert equal_error_rate(np.array([3.0, 2.0, 1.0, 0.0]), np.array([1, 1, 0, 0])) == 0
    assert equal_error_rate(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1, 1, 0, 0])) == 1
    assert equal_error_rate(np.ones(4), np.array([1, 1, 0, 0])) == pytest.approx(0.5)


def test_bad_scores_are_named() -> None:
    with pytest.raises(DataError, match="1 of 3 scores are NaN, the first at pair 1"):
        roc_curve(np.array([0.1, np.nan, 0.3]), np.array([1, 0, 1]))
    with pytest.raises(DataError, match="all 3 pairs are genuine"):
        auc(np.arange(3.0), np.ones(3, bool))
    with pytest.raises(DataError, match="one length"):
        auc(np.arange(3.0), np.ones(2, bool))
    with pytest.raises(DataError, match="between 0 and 1"):
        tar_at_far(np.arange(2.0), np.array([0, 1]), [1.5])
    with pytest.raises(DataError, match="at_most and nearest"):
        tar_at_far(np.arange(2.0), np.array([0, 1]), [0.1], "exact")  # type: ignore[arg-type]
