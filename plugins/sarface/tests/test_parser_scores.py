"""Intersection over union against sets of pixels, classes that are not there, and pixels that nobody labelled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facex_sarface.parser_scores import Confusion, scores_table
from rich.console import Console


def test_against_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 4, 5, 13, 255], (3, 20, 20)).astype(np.uint8)
    found = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice([0, 1, 4, 17], truth.shape)).astype(np.uint8)
    found[found == 255] = 9  # ears where nobody looked: they must not count
    counts = Confusion()
    for k in range(3):
        counts.add(torch.from_numpy(truth[k : k + 1]), torch.from_numpy(found[k : k + 1]))
    scores = counts.scores()
    known = set(np.flatnonzero(truth.ravel() != 255))
    wanted = []
    for row in scores["classes"]:
        mine = known & set(np.flatnonzero(truth.ravel() == row["class"]))
        theirs = known & set(np.flatnonzero(found.ravel() == row["class"]))
        assert row["pixels"] == len(mine)
        if mine:
            wanted.append(len(mine & theirs) / len(mine | theirs))
            assert row["iou"] == pytest.approx(wanted[-1]) and row["recall"] == pytest.approx(
                len(mine & theirs) / len(mine)
            )
        else:
            assert row["iou"] is None and row["recall"] is None
    assert scores["mean_iou"] == pytest.approx(np.mean(wanted)) and len(wanted) == 5 and scores["pictures"] == 3
    assert scores["pixel_accuracy"] == pytest.approx((truth == found)[truth != 255].mean())
    console = Console(width=100, record=True, quiet=True)
    console.print(scores_table(scores, "t"))


def test_nothing_is_labelled() -> None:
    counts = Confusion()
    counts.add(torch.full((1, 4, 4), 255, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.uint8))
    assert counts.scores()["mean_iou"] is None and counts.scores()["pixel_accuracy"] is None
    assert scores_table(counts.scores(), "t").row_count == 1
    with pytest.raises(ValueError, match="label maps of"):
        counts.add(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 5, 4, dtype=torch.uint8))
