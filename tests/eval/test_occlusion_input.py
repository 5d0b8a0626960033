"""What a network is shown: crops against their definition, Pillow's grey, which entries are occluded, keyed places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from facex.data.occluders import Block
from facex.errors import DataError
from facex.eval.occlusion_input import KeyedGenerators, OccludedView, center_crop, grey

FACES = np.random.default_rng(0).integers(1, 255, (4, 40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("want", [(40, 40), (30, 33), (31, 40), (47, 40), (48, 51), (45, 31)])
def test_center_crop(want: tuple[int, int]) -> None:
    """Pixel by pixel: half of what is missing goes before (the smaller half), half of what is too much is cut."""
    found = center_crop(FACES[:1], *want)[0]
    shifts = []
    for have, size in zip((40, 40), want, strict=True):
        shifts.append(-((size - have) // 2) if size > have else round((have - size) / 2))
    expected = np.zeros((*want, 3), np.uint8)
    for y in range(want[0]):
        for x in range(want[1]):
            if 0 <= y + shifts[0] < 40 and 0 <= x + shifts[1] < 40:
                expected[y, x] = FACES[0, y + shifts[0], x + shifts[1]]
    assert np.array_equal(found, expected)
    with pytest.raises(DataError, match="at least 1"):
        center_crop(FACES, 0, 3)


def test_grey_is_pillows() -> None:
    assert np.array_equal(grey(FACES[0]), np.asarray(Image.fromarray(FACES[0]).convert("L")))


def test_both_or_one_and_the_order_of_steps() -> None:
    """Mirrored first, then cropped, then grey, then occluded; entry numbers count over the whole set."""
    view = OccludedView(Block(100, 101, "white"), both=False, size=(44, 44), grey=True)
    asked: list[int] = []

    def generators(entry: int) -> np.random.RandomState:
        asked.append(entry)
        return np.random.RandomState(entry)

    shown, masks = view(FACES, generators, first=7, mirrored=True)
    assert asked == [8, 10]  # the even entries
    assert (shown[[1, 3]] == 255).all()
    assert (masks[[1, 3]] == 255).all()
    assert (masks[[0, 2]] == 0).all()
    clean = np.zeros((44, 44), np.uint8)
    clean[2:42, 2:42] = grey(FACES[2, :, ::-1])
    assert np.array_equal(shown[2], clean)
    assert (FACES != 0).all()  # the pictures that were given are untouched


def test_keyed_generators() -> None:
    """One number a key; nothing depends on what was drawn before."""
    draw = {
        (seed, what, repeat, mirrored, entry): KeyedGenerators(seed, what, repeat, mirrored)(entry).randint(1 << 30)
        for seed in (0, 1)
        for what in ("block 10 %", "block 20 %")
        for repeat in (0, 1)
        for mirrored in (False, True)
        for entry in (0, 1)
    }
    assert len(set(draw.values())) == 32
    one = KeyedGenerators(1, "block 20 %", 1, True)
    one(0).rand(100)
    assert one(1).randint(1 << 30) == draw[1, "block 20 %", 1, True, 1]


def test_bad_pictures_are_named() -> None:
    with pytest.raises(DataError, match="uint8"):
        OccludedView(Block(10, 11))(FACES.astype(np.float32), lambda entry: np.random.RandomState(0))
