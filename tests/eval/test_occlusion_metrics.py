"""Means with intervals against SciPy; MSML's two rates against scikit-learn and a loop over all thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_curve

from facex.errors import DataError
from facex.eval.occlusion_metrics import equal_error_accuracy, mean_interval, t_quantile, tar_at_far_candidates


def pairs(seed: int, count: int = 200, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(count) % 2 == 0)
    scores = rng.normal(same.astype(float), 0.8)
    return (scores.round(1) if ties else scores), same


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 100])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_t_quantile(freedom: int, level: float) -> None:
    assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_mean_interval() -> None:
    values = [0.91, 0.94, 0.92, 0.95]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert found.value == pytest.approx(np.mean(values))
    assert found.half_width == pytest.approx((high - low) / 2)
    assert mean_interval([0.5]).value == 0.5
    assert math.isnan(mean_interval([0.5]).half_width)
    for bad in ([], [0.5, float("nan")], [[0.5]]):
        with pytest.raises(DataError, match="one row of numbers"):
            mean_interval(np.array(bad))
    with pytest.raises(DataError, match="level"):
        t_quantile(1.0, 3)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rates_equal_a_loop(seed: int, ties: bool) -> None:
    scores, same = pairs(seed, ties=ties)
    far, tpr, _ = roc_curve(~same, -scores)  # the different pairs are the positive ones
    assert equal_error_accuracy(scores, same) == tpr[np.argmin(np.abs(tpr - (1 - far)))]
    half, fars = len(scores) // 2, (0.1, 0.01, 0.001, 0.0)
    impostors, genuine = -scores[~same], -scores[same]
    found = tar_at_far_candidates(scores, same, fars)
    for wanted in fars:
        allowed = [t for t in impostors if np.sum(impostors < t) / half <= wanted]
        assert found[wanted] == max(np.sum(genuine <= t) / half for t in allowed)
    assert tar_at_far_candidates(scores, same, fars, last_zero=True) == {**found, 0.0: 0.0}


def test_unbalanced_pairs_are_divided_by_half_of_all() -> None:
    """n is half the pairs for both kinds, as in the official code."""
    scores, same = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, True, True, False])
    assert tar_at_far_candidates(scores, same, [0.5]) == {0.5: 1.5}


def test_bad_input_is_named() -> None:
    scores, same = pairs(0)
    with pytest.raises(DataError, match="NaN"):
        equal_error_accuracy(np.full_like(scores, np.nan), same)
    with pytest.raises(DataError, match="no ROC without both"):
        tar_at_far_candidates(scores, np.ones_like(same), [0.1])
    with pytest.raises(DataError, match="between 0 and 1"):
        tar_at_far_candidates(scores, same, [1.5])
