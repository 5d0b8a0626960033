"""Transforms: every kind of field moves with the image, only chosen rows change, colours as by hand."""

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from facex.data.draws import Draws
from facex.data.transforms import ColorJitter, HorizontalFlip, RandomErasing, RandomShift, Transform
from facex.errors import ConfigError
from facex.methods.batch import Batch, Field
from tests.data.fakes import FakeSet


def make_batch(n: int = 64) -> Batch:
    data = FakeSet(n)
    fields = data.allocate(n, False)
    data.read(np.arange(n), fields)
    return Batch(fields, data.kinds, "rgb", torch.arange(n), torch.arange(n))


def draws(n: int = 64, number: int = 0) -> Draws:
    return Draws(11, number, torch.arange(n))


def flip_by_hand(batch: Batch, row: int) -> dict[str, np.ndarray]:
    """One sample mirrored pixel by pixel in numpy."""
    image, parsing = batch["image"][row].numpy(), batch["parsing"][row].numpy()
    width = image.shape[1]
    swapped = parsing[:, ::-1].copy()
    swapped[parsing[:, ::-1] == 4], swapped[parsing[:, ::-1] == 5] = 5, 4
    points = batch["points"][row].numpy().copy()
    points[:, 0] = width - 1 - points[:, 0]
    return {
        "image": image[:, ::-1],
        "parsing": swapped,
        "mask": batch["mask"][row].numpy()[:, ::-1],
        "points": points[[1, 0]],
        "label": batch["label"][row].numpy(),
        "flag": batch["flag"][row].numpy(),
    }


def test_flip_moves_every_kind_of_field():
    batch = make_batch()
    before = {k: v.clone() for k, v in batch.fields.items()}
    out = HorizontalFlip(1.0)(batch, draws())
    for row in range(len(batch)):
        for name, expected in flip_by_hand(batch, row).items():
            assert np.array_equal(out[name][row].numpy(), expected), name
    assert all(torch.equal(batch[k], v) for k, v in before.items())
    twice = HorizontalFlip(1.0)(out, draws())
    for name, value in before.items():
        assert torch.allclose(twice[name].float(), value.float(), atol=1e-5)


def test_flip_keeps_a_pixel_under_its_point():
    batch = make_batch(1)
    batch["image"].zero_()
    batch["image"][0, 2, 3] = 200
    batch.fields["points"] = torch.tensor([[[3.0, 2.0], [0.0, 0.0]]])
    out = HorizontalFlip(1.0)(batch, draws(1))
    x, y = out["points"][0, 1].long().tolist()  # point 0 has become point 1
    assert out["image"][0, y, x].tolist() == [200, 200, 200]


def test_flip_probability_and_whole_samples():
    batch = make_batch(256)
    out = HorizontalFlip(0.25)(batch, draws(256))
    chosen = torch.tensor([not torch.equal(a, b) for a, b in zip(out["image"], batch["image"], strict=True)])
    assert 40 < int(chosen.sum()) < 90
    moved = (out["points"] != batch["points"]).flatten(1).any(1)
    assert torch.equal(chosen, moved)
    assert torch.equal(HorizontalFlip(0.0)(batch, draws(256))["image"], batch["image"])


def test_points_without_a_picture_are_refused():
    points = torch.zeros(2, 5, 2)
    batch = Batch({"points": points}, {"points": Field("points")}, "rgb", torch.arange(2), torch.arange(2))
    with pytest.raises(ConfigError, match="without an image"):
        HorizontalFlip()(batch, draws(2))


@pytest.mark.parametrize("fill", ["edge", "black"])
def test_shift_against_numpy(fill):
    batch = make_batch(48)
    out = RandomShift(3, fill)(batch, draws(48))
    height, width = batch["image"].shape[1:3]
    offsets = (out["points"] - batch["points"]).round().long()
    assert offsets.amin() == -3
    assert offsets.amax() == 3
    for row in range(48):
        dx, dy = offsets[row, 0].tolist()
        for name in ("image", "parsing", "mask"):
            source, moved = batch[name][row].numpy(), out[name][row].numpy()
            mode = {"mode": "edge"} if fill == "edge" and name != "mask" else {"mode": "constant"}
            padded = np.pad(source, [(3, 3), (3, 3), (0, 0)][: source.ndim], **mode)
            expected = padded[3 - dy : 3 - dy + height, 3 - dx : 3 - dx + width]
            assert np.array_equal(moved, expected), (name, dx, dy)
    assert torch.equal(out["flag"], batch["flag"])


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_jitter_against_float64(color):
    batch = make_batch(32)
    batch.color = color
    jitter = ColorJitter(0.4, 0.3, 0.5)
    out = jitter(batch, draws(32))
    factors = 1 + (2 * draws(32).uniform("factors", 3).double().numpy() - 1) * np.array([0.4, 0.3, 0.5])
    grey_of = np.array([0.299, 0.587, 0.114])[:: 1 if color == "rgb" else -1]
    for row in range(32):
        b, c, s = factors[row]
        x = batch["image"][row].numpy() * b
        mean = (x @ grey_of).mean()
        x = mean + (x - mean) * c
        grey = (x @ grey_of)[..., None]
        x = np.clip(grey + (x - grey) * s, 0, 255)
        assert np.abs(out["image"][row].numpy() - x).max() <= 0.5 + 1e-3
    assert torch.equal(out["mask"], batch["mask"])
    assert torch.equal(ColorJitter(0, 0, 0)(batch, draws(32))["image"], batch["image"])


def test_erasing_paints_one_rectangle_of_the_right_share():
    n = 200
    batch = Batch(
        {"image": torch.zeros(n, 64, 48, 3, dtype=torch.uint8)},
        {"image": Field("image")},
        "rgb",
        torch.arange(n),
        torch.arange(n),
    )
    hole = RandomErasing(0.5, 0.3)(batch, draws(n))["image"][..., 0] == 127
    touched = hole.flatten(1).any(1)
    assert 70 < int(touched.sum()) < 130
    for picture in hole[touched]:
        rows, columns = picture.any(1), picture.any(0)
        assert torch.equal(picture, rows[:, None] & columns[None])
        assert 0.01 < picture.float().mean() < 0.33


def test_every_transform_is_pure_in_its_draws():
    batch = make_batch()
    for transform in (HorizontalFlip(), RandomShift(2), ColorJitter(), RandomErasing()):
        a, b = transform(batch, draws()), transform(batch, draws())
        assert torch.equal(a["image"], b["image"])
        assert not torch.equal(a["image"], transform(batch, draws(number=1))["image"])


@pytest.mark.parametrize(
    ("transform", "options"),
    [
        (HorizontalFlip, {"p": 1.5}),
        (RandomShift, {"max_pixels": -1}),
        (RandomShift, {"fill": "white"}),
        (ColorJitter, {"contrast": 2.0}),
        (RandomErasing, {"area": 0.0}),
    ],
)
def test_bad_options(transform, options):
    with pytest.raises(ConfigError, match=transform.__name__):
        transform(**options)


def test_transforms_are_named_in_yaml():
    parser = ArgumentParser()
    parser.add_argument("--transforms", type=list[Transform])
    text = '[{"class_path": "HorizontalFlip", "init_args": {"p": 0.3}}, {"class_path": "RandomShift"}]'
    flip, shift = parser.instantiate(parser.parse_args(["--transforms", text])).transforms
    assert isinstance(flip, HorizontalFlip)
    assert flip.p == 0.3
    assert repr(shift) == "RandomShift(max_pixels=4, fill='edge')"
