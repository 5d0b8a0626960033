"""Region split: against the rule written pixel by pixel, schemes as data, unknown classes, resizing, keep tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facex_sarface.regions import (
    LABELS,
    SCHEMES,
    CenterPixel,
    RegionScheme,
    centers,
    scheme_named,
    split,
    table,
    to_input_size,
)
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from facex.errors import ConfigError, DataError
from facex.ops import region_mask

PLAIN = {2: 0, 3: 1, 4: 2, 5: 3, 6: 4, 7: 5, 8: 6, 9: 7, 14: 9, 15: 10, 16: 11, 17: 12, 18: 13, 10: 8, 11: 8, 12: 8}


def face(height: int = 23, width: int = 31, seed: int = 0) -> np.ndarray:
    """A label map with an oval of skin off the middle, hair above it, and specks of everything."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    labels[(y < height // 3) & (x > 4)] = LABELS.index("hair")
    labels[((y - height / 2) / (height / 3)) ** 2 + ((x - width / 2.5) / (width / 4)) ** 2 < 1] = LABELS.index("skin")
    specks = rng.rand(height, width) < 0.2
    labels[specks] = rng.randint(0, 19, int(specks.sum()))
    return labels


def quarter(y: int, x: int, cy: int, cx: int) -> int | None:
    """0 top left, 1 top right, 2 bottom left, 3 bottom right, None for the centre."""
    if y <= cy and x < cx:
        return 0
    if y < cy and x >= cx:
        return 1
    if y > cy and x <= cx:
        return 2
    return 3 if y >= cy and x > cx else None


def by_hand(labels: np.ndarray, fixed: bool) -> np.ndarray:
    """The 24 regions, one pixel after another."""
    skin = np.argwhere(labels == 1)
    cy, cx = (int(np.floor(v)) for v in skin.mean(0)) if len(skin) else (labels.shape[0] // 2, labels.shape[1] // 2)
    out = np.zeros_like(labels)
    for (y, x), label in np.ndenumerate(labels):
        if label in (0, 1):
            place = quarter(y, x, cy, cx)
            if place is None:
                out[y, x] = 3 + (14 if label == 0 else 18) if fixed else label
            else:
                out[y, x] = place + (14 if label == 0 else 18)
        elif label == 13:
            out[y, x] = 22 if x < cx else 23
        else:
            out[y, x] = PLAIN[int(label)]
    return out


@pytest.mark.parametrize("center_pixel", ["official", "fixed"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_sar24_is_the_rule(center_pixel: CenterPixel, dtype: torch.dtype) -> None:
    maps = [face(seed=s) for s in range(4)]
    maps.append(np.where(maps[0] == 1, 0, maps[0]))  # no skin
    labels = torch.from_numpy(np.stack(maps)).to(dtype)
    before = labels.clone()
    ids = split(labels, SCHEMES["sar24"], center_pixel)
    assert ids.dtype == torch.uint8
    assert torch.equal(labels, before)
    expected = np.stack([by_hand(m, center_pixel == "fixed") for m in maps])
    np.testing.assert_array_equal(ids.numpy(), expected)


def test_the_centre_pixel() -> None:
    empty = torch.zeros(1, 8, 8, dtype=torch.uint8)
    official, fixed = (split(empty, SCHEMES["sar24"], choice) for choice in ("official", "fixed"))
    assert official[0, 4, 4] == 0  # background's centre becomes the nose, so something is always kept
    assert fixed[0, 4, 4] == 17
    assert (official != fixed).sum() == 1
    skin = torch.ones(1, 8, 8, dtype=torch.uint8)
    assert split(skin, SCHEMES["sar24"])[0, 3, 3] == 1
    legacy = split(skin, SCHEMES["legacy23"])
    assert legacy[0, 3, 3] == 1
    assert legacy.unique().tolist() == [1, 19, 20, 21, 22]


def test_the_centre_is_an_integer_division_and_falls_back() -> None:
    labels = torch.zeros(3, 7, 9, dtype=torch.uint8)
    labels[0, 1, 2] = labels[0, 2, 5] = labels[0, 6, 6] = 1  # mean row 3, mean column 4.33
    labels[1, 5, 8] = 2  # a nose and no skin
    cy, cx = centers(labels, (1,))
    assert cy.tolist() == [3, 3, 3]
    assert cx.tolist() == [4, 4, 4]
    cy, cx = centers(labels, (2, 1))
    assert list(zip(cy.tolist(), cx.tolist(), strict=True)) == [(3, 4), (5, 8), (3, 4)]


def test_raw19_and_legacy23_keep_labels() -> None:
    labels = torch.from_numpy(face())[None]
    assert torch.equal(split(labels, SCHEMES["raw19"]), labels)
    legacy = split(labels, SCHEMES["legacy23"])
    plain = labels != 1
    assert torch.equal(legacy[plain], labels[plain])
    assert set(legacy[~plain].tolist()) <= {1, 19, 20, 21, 22}


@pytest.mark.parametrize("name", list(SCHEMES))
def test_schemes_are_whole(name: str) -> None:
    scheme = SCHEMES[name]
    for center_pixel in ("official", "fixed"):
        assert int(table(scheme, center_pixel).max()) < scheme.count
    assert sorted([*scheme.kept, *scheme.removable]) == list(scheme.ids)
    assert len(scheme.names) == len(set(scheme.names)) == scheme.count == int(name[-2:])


def test_sar24_decides_about_neck_cloth_background_skin_and_hair() -> None:
    scheme = SCHEMES["sar24"]
    assert scheme.removable == tuple(range(12, 24))
    assert [scheme.names[k] for k in (0, 8, 12, 13, 14, 18, 21, 23)] == [
        *("nose", "mouth", "neck", "cloth", "background TL", "skin TL", "skin BR", "hair right")
    ]


def test_keep_puts_actions_at_their_regions() -> None:
    actions = torch.tensor([[0.0, 1.0, 0.5]])
    scheme = RegionScheme("three", SCHEMES["raw19"].regions, (), (4, 0, 18))
    keep = scheme.keep(actions)
    assert keep.shape == (1, 19)
    assert keep[0, [4, 0, 18]].tolist() == [0.0, 1.0, 0.5]
    assert keep.sum() == 17.5
    with pytest.raises(ValueError, match="3 actions"):
        scheme.keep(torch.zeros(1, 4))
    with pytest.raises(ConfigError, match="removable"):
        RegionScheme("wrong", SCHEMES["raw19"].regions, (), (19,))


def test_bad_labels_are_named() -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    labels[1, 2, 3] = 19
    with pytest.raises(DataError, match=r"label map 1 of the batch: class 19 at row 2, column 3"):
        split(labels, SCHEMES["sar24"])
    with pytest.raises(DataError, match="class -1"):
        split(torch.full((1, 2, 2), -1), SCHEMES["sar24"])
    with pytest.raises(ValueError, match="uint8 or int64"):
        split(labels.float(), SCHEMES["sar24"])
    with pytest.raises(ConfigError, match="center_pixel"):
        split(labels[:1], SCHEMES["sar24"], "middle")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sar24, legacy23, raw19"):
        scheme_named("sar25")


def test_resizing_is_torchs_nearest() -> None:
    ids = torch.randint(0, 24, (2, 128, 128), dtype=torch.uint8)
    expected = interpolate(one_hot(ids.long(), 24).permute(0, 3, 1, 2).float(), 112, mode="nearest").argmax(1)
    assert torch.equal(to_input_size(ids), expected.to(torch.uint8))
    assert torch.equal(to_input_size(ids, 128), ids)


def test_masks_make_the_picture_of_kept_regions() -> None:
    """The whole road from labels to a masked picture: what the paper's sum over region masks gives."""
    ids = to_input_size(split(torch.from_numpy(np.stack([face(128, 128, s) for s in range(2)])), SCHEMES["sar24"]))
    actions = torch.randint(0, 2, (2, 12)).float()
    keep, images = SCHEMES["sar24"].keep(actions), torch.randn(2, 3, 112, 112)
    masked, areas = region_mask(images, ids, keep)
    masks = one_hot(ids.long(), 24).permute(0, 3, 1, 2).float()
    summed: Tensor = (keep[:, :, None, None] * masks).sum(1, keepdim=True)
    assert torch.equal(masked, images * summed)
    assert torch.equal((areas * keep).sum(1), summed.sum((1, 2, 3)))
