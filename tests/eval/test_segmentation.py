"""IoU against a loop over pixels, and what is no map."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facex.errors import DataError
from facex.eval.segmentation import RegionCounts, is_occluded, region_iou, resize_masks

RNG = np.random.default_rng(0)


def test_iou_equals_a_loop() -> None:
    predicted, truth = RNG.random((3, 9, 7)) < 0.4, RNG.random((3, 9, 7)) < 0.3
    found = region_iou(predicted, truth)
    for value, rate in ((True, found.occluded), (False, found.clean)):
        both = sum(p == t == value for p, t in zip(predicted.flat, truth.flat, strict=True))
        either = sum(value in (p, t) for p, t in zip(predicted.flat, truth.flat, strict=True))
        assert rate == both / either
    assert found.mean == pytest.approx((found.occluded + found.clean) / 2)
    assert found.pixels == 189
    counts = RegionCounts()
    for p, t in zip(predicted, truth, strict=True):
        counts.add(p, t)
    assert counts.iou() == found  # sums over pictures, not a mean of theirs


def test_regions_that_are_nowhere() -> None:
    clean = np.zeros((2, 4, 4), bool)
    found = region_iou(clean, clean)
    assert math.isnan(found.occluded)
    assert found.clean == found.mean == 1
    assert found.summary() == {"occluded": None, "clean": 1.0, "mean": 1.0}
    assert region_iou(~clean, clean).occluded == 0
    assert math.isnan(RegionCounts().iou().mean)


def test_maps() -> None:
    assert is_occluded(np.array([[[0, 255]]], np.uint8)).tolist() == [[[False, True]]]
    assert is_occluded(np.array([[[0.5, 0.51]]], np.float32)).tolist() == [[[False, True]]]
    for bad, message in (
        (np.array([[[2.0]]]), "outside 0..1"),
        (np.array([[[np.nan]]]), "NaN"),
        (np.zeros((2, 2)), r"\[pictures, H, W\]"),
        (np.zeros((1, 2, 2), np.int64), "int64"),
    ):
        with pytest.raises(DataError, match=message):
            is_occluded(bad)


def test_masks_of_another_size() -> None:
    masks = np.zeros((1, 4, 4), np.uint8)
    masks[0, :2, :2] = 255
    assert np.array_equal(resize_masks(masks, 8, 8)[0], masks[0].repeat(2, 0).repeat(2, 1))
    assert resize_masks(masks, 4, 4) is masks
    with pytest.raises(DataError, match="one size"):
        region_iou(np.zeros((1, 4, 4), bool), np.zeros((1, 8, 8), bool))
    with pytest.raises(DataError, match="booleans"):
        region_iou(masks, masks)
