"""Error versus reject against brute force on 1e5 pairs; what is measured and what is nominal."""

from __future__ import annotations

import numpy as np
import pytest

from facex.errors import DataError
from facex.eval.quality import (
    REJECT_RATES,
    error_versus_reject,
    error_versus_reject_embeddings,
    pair_quality,
)

PAIRS = 100_000


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances that quality explains partly; qualities without ties."""
    rng = np.random.default_rng(0)
    same, quality = rng.random(PAIRS) < 0.5, rng.permutation(PAIRS) / PAIRS
    return np.where(same, 0.3 + 0.3 * (1 - quality), 0.5) + 0.1 * rng.normal(size=PAIRS), same, quality


@pytest.mark.parametrize("nominal", [True, False])
def test_by_hand(pairs: tuple[np.ndarray, np.ndarray, np.ndarray], nominal: bool) -> None:
    d, same, quality = pairs
    curve = error_versus_reject(d, same, quality, nominal_fmr=nominal)
    for k, rate in enumerate(REJECT_RATES):
        left = quality >= np.sort(quality)[int(rate * PAIRS)]
        impostor, genuine = np.sort(d[left & ~same]), d[left & same]
        place = (len(impostor) - 1) // 10 // 10 // 10 if nominal else len(impostor) // 1000
        assert curve.thresholds[k] == impostor[place]
        assert curve.fnmr[k] == np.mean(genuine >= impostor[place])
        assert curve.fmr[k] == np.mean(impostor < impostor[place]) <= 1e-3
        assert (curve.kept[k], curve.impostors[k]) == (left.sum(), len(impostor))
        if not nominal:  # the next threshold up would accept too many
            assert (place + 1) / len(impostor) > 1e-3
    assert curve.fnmr[10] < curve.fnmr[0]
    middle = np.mean((curve.fnmr[1:] + curve.fnmr[:-1]) / 2)
    assert curve.area == pytest.approx(middle)


def test_too_few_impostors_are_nan_or_missing() -> None:
    """250 pairs, 125 impostors: after a fifth is rejected 100 are left."""
    rng = np.random.default_rng(1)
    same, quality = np.arange(250) % 2 == 0, np.arange(250.0)
    d = rng.random(250)
    curve = error_versus_reject(d, same, quality)
    known = curve.impostors >= 101
    assert known.tolist() == [rate < 0.19 for rate in REJECT_RATES]
    assert np.array_equal(~np.isnan(curve.fnmr), known)
    assert np.array_equal(~np.isnan(curve.fmr), known)
    assert curve.fmr[0] == 0  # one of 125 is more than 1e-3: the rate measured is not the rate asked for
    short = error_versus_reject(d, same, quality, omit=True)
    assert np.array_equal(short.fnmr, curve.fnmr[known])
    assert len(short.rates) == 20
    summary = curve.summary()
    assert summary["fnmr"][-1] is None
    assert summary["measured_fmr"][0] == 0.0
    alone = error_versus_reject(d, np.zeros(250, bool), quality)
    assert np.isnan(alone.fnmr).all()
    assert np.isnan(alone.area)
    assert alone.summary()["area"] is None


def test_ties_at_the_threshold_never_exceed_the_rate() -> None:
    same = np.arange(2000) % 2 == 0
    curve = error_versus_reject(np.where(same, 0.2, 0.5), same, np.ones(2000), fmr=0.1, rates=[0.0])
    assert curve.fmr[0] == 0
    assert curve.fnmr[0] == 0


def test_of_embeddings_uses_the_lengths_or_another_quality() -> None:
    rng = np.random.default_rng(2)
    rows, same = rng.normal(size=(800, 8)), np.arange(400) % 2 == 0
    lengths = np.linalg.norm(rows, axis=1)
    plain = error_versus_reject_embeddings(rows, same)
    given = error_versus_reject_embeddings(rows, same, 2 * lengths)
    scaled = error_versus_reject_embeddings(rows / lengths[:, None], same, lengths)
    for other in (given, scaled):
        np.testing.assert_allclose(other.fnmr, plain.fnmr)
    assert not np.allclose(error_versus_reject_embeddings(rows, same, -lengths).fnmr, plain.fnmr, equal_nan=True)
    assert pair_quality(np.array([1, 2, 4, 3])).tolist() == [1, 3]


def test_bad_input() -> None:
    d, same, q = np.array([0.1, 0.2]), np.array([True, False]), np.array([1.0, 2.0])
    with pytest.raises(DataError, match=r"1 of 2 distances are NaN, the first at pair 1"):
        error_versus_reject(np.array([0.1, np.nan]), same, q)
    with pytest.raises(DataError, match="qualities are NaN"):
        error_versus_reject(d, same, np.array([np.nan, 1]))
    with pytest.raises(DataError, match="one length"):
        error_versus_reject(d, same, q[:1])
    with pytest.raises(DataError, match="reject rates"):
        error_versus_reject(d, same, q, rates=[1.0])
    with pytest.raises(DataError, match="between 0 and 1"):
        error_versus_reject(d, same, q, fmr=0)
    with pytest.raises(DataError, match="two a pair"):
        pair_quality(np.ones(3))
    with pytest.raises(DataError, match="two rows a pair"):
        error_versus_reject_embeddings(np.ones((3, 2)), same)
