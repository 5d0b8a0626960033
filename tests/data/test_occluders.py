"""Occluders: exact masks, built-in and user's assets, what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facex.data.native import native
from facex.data.occluders import (
    OCCLUDERS,
    Block,
    Glasses,
    Hand,
    NoOcclusion,
    Occluder,
    RealObject,
    Scarf,
    builtin_assets,
    gauss_map,
    load_folder,
    make_occluder,
)
from facex.data.occluders.assets import resize_rgba
from facex.errors import ConfigError, DataError

HARD = ("rectangle", "ellipse", "polygon", "glasses", "scarf", "object", "block")
MADE = {name: make_occluder(name) for name in OCCLUDERS}


def picture(height: int = 112, width: int = 112, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def generator(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)


@pytest.mark.parametrize("name", OCCLUDERS)
@pytest.mark.parametrize("size", [(112, 112), (64, 64), (128, 96), (224, 224)])
def test_masks_are_binary_and_hold_what_changed(name: str, size: tuple[int, int]) -> None:
    for seed in range(12):
        image = picture(*size)
        before = image.copy()
        covered, mask = MADE[name].draw(image, generator(seed))
        assert np.array_equal(image, before)
        assert covered.shape == image.shape and covered.dtype == mask.dtype == np.uint8 and mask.shape == size
        assert set(np.unique(mask)) <= {0, 255}
        changed = (covered != image).any(-1)
        if name in HARD:
            assert not (changed & (mask == 0)).any()
        again = MADE[name].draw(image, generator(seed))
        assert np.array_equal(again[0], covered) and np.array_equal(again[1], mask)


@pytest.mark.parametrize("name", ["rectangle", "ellipse", "polygon", "glasses", "scarf", "object", "hand", "mask"])
def test_covered_pixels_do_change(name: str) -> None:
    changed = masked = 0
    for seed in range(20):
        image = picture(seed=seed)
        covered, mask = MADE[name].draw(image, generator(seed))
        changed += int(((covered != image).any(-1) & (mask > 0)).sum())
        masked += int((mask > 0).sum())
    # Lenses of alpha 1..10 count as occluded although the face shows through them.
    assert masked > 20 * 200 and changed > (0.8 if name == "glasses" else 0.98) * masked


@pytest.mark.parametrize("name", OCCLUDERS[1:])
def test_grey_pictures_get_the_same_mask(name: str) -> None:
    colour, grey = picture(), cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY)
    if name in ("rectangle", "ellipse", "polygon", "block"):  # a grey one draws fewer numbers, in the same place
        covered, mask = MADE[name].draw(grey, generator(3))
        assert covered.shape == mask.shape == (112, 112) and not ((covered != grey) & (mask == 0)).any()
    else:
        shade, mask = MADE[name].draw(grey, generator(3))
        covered, expected = MADE[name].draw(colour, generator(3))
        assert np.array_equal(mask, expected)
        error = np.abs(cv2.cvtColor(covered, cv2.COLOR_RGB2GRAY).astype(int) - shade)
        assert (error[mask > 0] <= 3).mean() > 0.97


def test_a_mask_is_added_to() -> None:
    mask = np.zeros((112, 112), np.uint8)
    mask[:5] = 255
    for name in OCCLUDERS:
        MADE[name].cover(picture(), mask, generator(1))
        assert (mask[:5] == 255).all()
    none = np.zeros((112, 112), np.uint8)
    NoOcclusion().cover(picture(), none, generator(0))
    assert not none.any()


@pytest.mark.parametrize("share", [1, 25, 90, 100])
def test_the_block_covers_its_share(share: int) -> None:
    image = picture()
    for fill, value in (("black", 0), ("white", 255)):
        covered, mask = Block(share, share + 1, fill).draw(image, generator(2))
        side = int((share / 100) ** 0.5 * 112)
        assert abs(int((mask > 0).sum()) ** 0.5 - side) <= 1
        assert (covered[mask > 0] == value).all()
    wide = Block(90, 91).draw(picture(64, 200), generator(0))[1]  # the side comes from the width: it is cut
    assert wide.any()


def test_area_shares_are_those_of_the_specification() -> None:
    def shares(name: str, n: int = 400) -> np.ndarray:
        return np.array([(MADE[name].draw(picture(), generator(s))[1] > 0).mean() for s in range(n)])

    ellipse, polygon = shares("ellipse"), shares("polygon")
    assert abs(ellipse.mean() - 0.286) < 0.01 and abs(polygon.mean() - 0.092) < 0.004
    assert shares("rectangle").max() < 0.36


@pytest.mark.parametrize(
    ("name", "count", "median", "spread"),
    [
        ("eyeglasses", 20, 0.27, (0.14, 0.78)),
        ("sunglasses", 32, 0.64, (0.4, 0.78)),
        ("scarf", 24, 0.93, (0.72, 0.99)),
        ("object", 27, 0.75, (0.27, 1.0)),
    ],
)
def test_built_in_assets_cover_as_much_as_photographs(
    name: str, count: int, median: float, spread: tuple[float, float]
) -> None:
    covered = [float((asset[..., 3] > 0).mean()) for asset in builtin_assets(name)]
    assert len(covered) == count and len({a.tobytes() for a in builtin_assets(name)}) == count
    assert spread[0] <= min(covered) and max(covered) <= spread[1] and abs(np.median(covered) - median) < 0.1
    assert all(a.dtype == np.uint8 and a.shape[2] == 4 for a in builtin_assets(name))


def test_resizing_is_pillows() -> None:
    image_module = pytest.importorskip("PIL.Image")
    rng = generator(0)
    for h, w, height, width in [
        (48, 125, 40, 80),
        (40, 80, 37, 75),
        (55, 55, 109, 60),
        (70, 130, 30, 55),
        (9, 7, 9, 3),
    ]:
        asset = rng.randint(0, 256, (h, w, 4)).astype(np.uint8)
        asset[..., 3] = np.where(rng.rand(h, w) < 0.4, rng.choice((0, 255)), asset[..., 3])
        expected = image_module.fromarray(asset).resize((width, height), image_module.BICUBIC)
        assert np.array_equal(resize_rgba(asset, width, height), np.asarray(expected))


def test_pasting_is_cut_at_every_edge() -> None:
    asset = generator(1).randint(0, 256, (20, 30, 4)).astype(np.uint8)
    for x, y in [(-10, -5), (100, 105), (-29, 111), (50, 40), (-40, 0), (200, 0)]:
        image, mask = picture(), np.zeros((112, 112), np.uint8)
        expected, area = image.copy(), mask.copy()
        for row in range(20):
            for column in range(30):
                if 0 <= y + row < 112 and 0 <= x + column < 112:
                    if asset[row, column, 3] > 10:
                        expected[y + row, x + column] = asset[row, column, :3]
                    if asset[row, column, 3] > 0:
                        area[y + row, x + column] = 255
        native().paste_rgba(image, mask, asset, x, y, 10)
        assert np.array_equal(image, expected) and np.array_equal(mask, area)


def save(path, asset: np.ndarray) -> None:
    assert cv2.imwrite(str(path), asset)


def test_a_folder_of_ones_own(tmp_path) -> None:
    red = np.zeros((30, 60, 4), np.uint8)
    red[5:25, 5:55] = (0, 0, 255, 255)  # OpenCV's BGRA
    save(tmp_path / "b.png", red)
    save(tmp_path / "a.png", red[:, ::2])
    (tmp_path / "notes.txt").write_text("not a picture")
    assets = load_folder(tmp_path)
    assert [a.shape for a in assets] == [(30, 30, 4), (30, 60, 4)]
    for kind in (Glasses, Scarf, RealObject, Hand):
        covered, mask = kind(assets).draw(picture(), generator(4))
        assert mask.any()
        if kind is not Hand:
            assert (covered[mask > 0][:, 1:] == 0).mean() > 0.9
    two = Glasses([assets[:1], assets[1:]])
    assert len(two.assets) == 2 and two.assets[0][0].shape == (40, 80, 4)
    assert make_occluder("scarf", [tmp_path, tmp_path]).draw(picture(), generator(0))[1].any()


def test_assets_that_cannot_be_used(tmp_path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no \.png"):
        load_folder(tmp_path)
    cases = {
        "solid": (np.zeros((8, 8, 3), np.uint8), "no alpha channel"),
        "grey": (np.zeros((8, 8), np.uint8), "no alpha channel"),
        "deep": (np.full((8, 8, 4), 65535, np.uint16), "no alpha channel"),
        "clear": (np.zeros((8, 8, 4), np.uint8), "transparent everywhere"),
    }
    for name, (asset, message) in cases.items():
        (tmp_path / name).mkdir()
        save(tmp_path / name / "bad.png", asset)
        with pytest.raises(DataError, match=rf"bad\.png: .*{message}"):
            load_folder(tmp_path / name)
    good = cv2.imencode(".png", np.full((64, 64, 4), 200, np.uint8))[1].tobytes()
    for number, data in enumerate((b"", b"GIF89a", good[:60], good[:20])):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cut.png").write_bytes(data)
        with pytest.raises(DataError, match=r"cut\.png"):
            load_folder(tmp_path / str(number))
    with pytest.raises(DataError, match="asset 1 is no uint8 picture"):
        Glasses([np.full((4, 4, 4), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)])
    for empty in ([], [[]]):
        with pytest.raises(ConfigError, match="at least one asset"):
            Scarf(empty)


def test_pictures_and_options_that_are_refused() -> None:
    occluder: Occluder = MADE["rectangle"]
    for bad in (
        picture().astype(np.float32),
        picture()[..., :2],
        picture(8, 112),
        np.zeros((2, 112, 112, 3), np.uint8),
    ):
        with pytest.raises(DataError):
            occluder.draw(bad, generator(0))
    with pytest.raises(ValueError, match="picture's size"):
        native().paste_rgba(picture(), np.zeros((100, 112), np.uint8), builtin_assets("hand")[0].copy(), 0, 0, 0)
    for low, high in ((-1, 5), (5, 5), (0, 102)):
        with pytest.raises(ConfigError, match="per cent"):
            Block(low, high)
    with pytest.raises(ConfigError, match="black, white, gauss"):
        Block(fill="grey")
    with pytest.raises(ConfigError, match="did you mean 'glasses'"):
        make_occluder("glases")
    with pytest.raises(ConfigError, match="takes no pictures"):
        make_occluder("ellipse", "somewhere")
    with pytest.raises(ConfigError, match="did you mean 'eyeglasses'"):
        builtin_assets("eyeglases")
    for options in ({"metric": "Chebyshev"}, {"center_x": ()}):
        with pytest.raises(ConfigError):
            gauss_map(generator(0), (0, 0, 10, 10), **options)
    with pytest.raises(ConfigError):
        gauss_map(generator(0), (5, 0, 5, 10))
