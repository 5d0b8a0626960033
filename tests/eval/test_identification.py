"""1:N protocols against brute force in float64 over 1e5 scores, ties included, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facex.errors import DataError
from facex.eval.identification import (
    combine_galleries,
    dir_at_far,
    identify,
    identify_single_mates,
    match,
    match_scores,
    tinyface,
)

PROBES, GALLERY = 400, 250


@pytest.fixture(scope="module")
def search() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1e5 scores on a coarse grid, so that ties abound; a third of the gallery are distractors, some probes have two
    mates, some none."""
    rng = np.random.default_rng(5)
    probes, gallery = rng.integers(0, 120, PROBES), rng.integers(0, 100, GALLERY)
    gallery[rng.random(GALLERY) < 0.3] = -100
    scores = rng.normal(size=(PROBES, GALLERY)) + 3 * (probes[:, None] == gallery[None])
    return np.round(scores, 1), probes, gallery


def by_hand(scores: np.ndarray, probes: np.ndarray, gallery: np.ndarray) -> list[tuple[float | None, int, float]]:
    """(best mate's score or None, others at or above it, best other) of each probe, one score at a time."""
    out = []
    for p, label in enumerate(probes):
        mates = [s for s, g in zip(scores[p], gallery, strict=True) if g == label and g != -100]
        others = [s for s, g in zip(scores[p], gallery, strict=True) if g != label or g == -100]
        mate = max(mates) if mates else None
        out.append((mate, sum(s >= mate for s in others) if mate is not None else -1, max(others)))
    return out


def test_matches_by_hand(search: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, probes, gallery = search
    found = match_scores(scores, probes, gallery, distractor=-100, keep_others=50)
    for p, (mate, rank, other) in enumerate(by_hand(scores, probes, gallery)):
        assert found.mated[p] == (mate is not None)
        assert found.mate[p] == (-math.inf if mate is None else mate)
        assert (found.rank[p], found.other[p]) == (rank, other)
    between = scores[probes[:, None] != gallery[None]]
    assert np.array_equal(found.top_others, np.sort(between)[::-1][:50])
    assert found.lowest == scores.min()


def test_strips_and_features_do_not_matter() -> None:
    """Any cut of the product gives the answer of the whole matrix."""
    rng = np.random.default_rng(1)
    probes, gallery = rng.normal(size=(91, 16)).astype(np.float32), rng.normal(size=(40, 16)).astype(np.float32)
    people, subjects = rng.integers(0, 30, 91), rng.integers(0, 30, 40)
    whole = match_scores(probes.astype(float) @ gallery.T.astype(float), people, subjects, keep_others=20)
    for strip in (1, 7, 91, None):
        found = match(probes, gallery, people, subjects, keep_others=20, strip=strip)
        assert np.array_equal(found.rank, whole.rank)
        for name in ("mate", "other", "top_others"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-12)


def test_insightface_by_hand(search: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, probes, gallery = search
    fars = (0.01, 0.1, 0.5, 1.0)
    found = identify(match_scores(scores, probes, gallery, distractor=-100), (1, 5, 10), fars)
    rows = by_hand(scores, probes, gallery)
    mated, alone = [r for r in rows if r[0] is not None], sorted((r[2] for r in rows if r[0] is None), reverse=True)
    assert found.counts.tolist() == [sum(r[1] < k for r in mated) for k in (1, 5, 10)]
    for i, far in enumerate(fars):
        threshold = alone[max(int(len(alone) * far) - 1, 0)]
        assert found.thresholds[i] == threshold
        assert found.tpir[i] == sum(r[0] > r[2] and r[0] > threshold for r in mated) / len(mated)
        assert found.fpir[i] == sum(s > threshold for s in alone) / len(alone)
    rates, tpir = combine_galleries([found, found])
    np.testing.assert_allclose(rates, 2 * found.counts / PROBES)
    np.testing.assert_allclose(tpir, found.tpir)


def test_dir_by_hand(search: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, probes, gallery = search
    matches = match_scores(scores, probes, gallery, distractor=-100)
    rows = by_hand(scores, probes, gallery)
    mated, alone = [r for r in rows if r[0] is not None], sorted((r[2] for r in rows if r[0] is None), reverse=True)
    closed = dir_at_far(matches, (1, 5, 20))
    assert closed.rates[0].tolist() == [np.mean([r[1] < k for r in mated]) for k in (1, 5, 20)]
    assert closed.thresholds[0] < scores.min()
    fars = (0.0, 0.05, 0.3)
    opened = dir_at_far(matches, (1, 20), fars)
    for i, far in enumerate(fars):
        alarms = int(np.round(len(alone) * far))
        threshold = alone[alarms - 1] if alarms else alone[0] + 1e-10
        assert opened.thresholds[i] == threshold
        assert opened.rates[i].tolist() == [np.mean([r[1] < k and r[0] >= threshold for r in mated]) for k in (1, 20)]
        assert opened.measured_fars[i] == np.mean([s >= threshold for s in alone])
    assert opened.measured_fars[0] == 0


def test_single_mates_by_hand() -> None:
    rng = np.random.default_rng(2)
    gallery, subjects = rng.normal(size=(GALLERY, 8)), rng.permutation(GALLERY)
    people = rng.integers(0, GALLERY, PROBES)
    probes = gallery[np.argsort(subjects)[people]] + rng.normal(size=(PROBES, 8))
    found = identify_single_mates(probes, gallery, people, subjects, (1, 5), (0.01, 0.1))
    scores = probes @ gallery.T
    mate = scores[np.arange(PROBES), np.argsort(subjects)[people]]
    others = np.sort(scores[people[:, None] != subjects[None]])[::-1]
    ranks = (scores > mate[:, None]).sum(1)
    np.testing.assert_allclose(found.rates, [np.mean(ranks < 1), np.mean(ranks < 5)])
    for i, far in enumerate((0.01, 0.1)):
        threshold = others[math.ceil(PROBES * far) - 1]
        np.testing.assert_allclose(found.thresholds[i], threshold, rtol=1e-12)
        np.testing.assert_allclose(found.recall[i], np.mean(mate > threshold))
    with pytest.raises(DataError, match=r"probe 3 \(person 999\) has 0 mates"):
        identify_single_mates(probes, gallery, np.where(np.arange(PROBES) == 3, 999, people), subjects)
    with pytest.raises(DataError, match="has 2 mates"):
        identify_single_mates(probes[:1], gallery, subjects[:1], np.append(subjects[0], subjects[:-1]))


def test_tinyface_leaves_out_probes_without_mate() -> None:
    eye = np.eye(4)
    rates = tinyface(eye[:3], eye[[0, 2, 1]] + 0.0, np.array([7, 8, -100]), np.array([7, -100, 8]), (1,))
    assert rates == {1: 1.0}  # the third probe carries the distractors' label and has no mate


@pytest.mark.parametrize(
    ("probes", "gallery", "message"),
    [
        (np.ones((2, 3)), np.ones((0, 3)), "gallery is empty"),
        (np.ones((0, 3)), np.ones((2, 3)), "no probes"),
        (np.ones((2, 3)), np.ones((2, 4)), "one network each"),
        (np.array([[1.0, np.nan]] * 2), np.ones((2, 2)), "row 0 of the probes holds NaN"),
        (np.ones((2, 2)), np.array([[1.0, 1], [np.inf, 1]]), "row 1 of the gallery"),
    ],
)
def test_bad_features(probes: np.ndarray, gallery: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        match(probes, gallery, np.zeros(len(probes), int), np.zeros(len(gallery), int))


def test_bad_scores_labels_and_rates() -> None:
    with pytest.raises(DataError, match="probe 1 and gallery entry 0 is nan"):
        match_scores(np.array([[1.0, 2], [np.nan, 2]]), np.array([0, 1]), np.array([0, 1]))
    with pytest.raises(DataError, match="labels of shape"):
        match_scores(np.ones((2, 2)), np.array([0]), np.array([0, 1]))
    with pytest.raises(DataError, match="may be empty"):
        match_scores(np.ones((2, 0)), np.array([0, 1]), np.array([], int))
    strangers = match_scores(np.ones((2, 2)), np.array([0, 1]), np.array([2, 3]))
    friends = match_scores(np.eye(2), np.array([0, 1]), np.array([0, 1]))
    for protocol in (identify, dir_at_far):
        with pytest.raises(DataError, match="none of the 2 probes has a mate"):
            protocol(strangers)
    with pytest.raises(DataError, match="no false alarm can be measured"):
        identify(friends)
    with pytest.raises(DataError, match="open set"):
        dir_at_far(friends, (1,), (0.1,))
    with pytest.raises(DataError, match="between 0 and 1"):
        dir_at_far(friends, (1,), (1.5, 0.1))
    assert identify(friends, (1,), ()).counts.tolist() == [2]
