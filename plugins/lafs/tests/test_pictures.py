"""Batched augmentations against PIL itself, against torch's own resize, and against each other's edge values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facex_lafs.augment import GEOMETRIC, OPS, CropJitterErase, RandAugment, apply_op, level
from facex_lafs.pictures import affine, color, tensor_color
from facex_lafs.pictures.blur import gaussian_blur
from facex_lafs.pictures.draws import Jitter, apply_jitter, draw_crops
from facex_lafs.pictures.resample import resized_crops
from torch import Tensor

from facex.data.draws import Draws
from facex.errors import ConfigError
from facex.methods import Batch, Field

Image = pytest.importorskip("PIL.Image")
ImageEnhance = pytest.importorskip("PIL.ImageEnhance")
ImageFilter = pytest.importorskip("PIL.ImageFilter")
ImageOps = pytest.importorskip("PIL.ImageOps")
SIZE, COUNT = 40, 6
FACTORS = torch.tensor([0.0, 0.6, 0.9, 1.0, 1.2, 1.9])


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Noise, a ramp, a picture of one colour, black and white."""
    rng = np.random.default_rng(0)
    made = rng.integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype(np.uint8)
    ramp = np.linspace(20, 220, SIZE).astype(np.uint8)
    made[1], made[2] = ramp[:, None, None], (180, 40, 90)
    made[3], made[4, :, : SIZE // 2] = 0, 255
    return torch.from_numpy(made)


def pils(images: Tensor) -> list[object]:
    return [Image.fromarray(x.numpy()) for x in images]


def assert_equal(got: Tensor, pictures: list[object], allowed: int = 0) -> None:
    want = np.stack([np.asarray(p) for p in pictures]).astype(int)
    assert int(np.abs(got.numpy().astype(int) - want).max()) <= allowed


@pytest.mark.parametrize(
    ("mine", "pil"),
    [
        (color.brightness, "Brightness"),
        (color.contrast, "Contrast"),
        (color.saturation, "Color"),
        (color.sharpness, "Sharpness"),
    ],
)
def test_enhancing(mine: object, pil: str, images: Tensor) -> None:
    enhance = getattr(ImageEnhance, pil)
    want = [enhance(p).enhance(float(f)) for p, f in zip(pils(images), FACTORS, strict=True)]
    assert_equal(mine(images, FACTORS), want)  # type: ignore[operator]


def test_colour_spaces_and_tables(images: Tensor) -> None:
    hsv = [p.convert("HSV") for p in pils(images)]
    assert_equal(color.rgb_to_hsv(images), hsv)
    assert_equal(
        color.hsv_to_rgb(torch.from_numpy(np.stack([np.asarray(h) for h in hsv])).long()),
        [h.convert("RGB") for h in hsv],
    )
    assert_equal(color.grayscale(images), [p.convert("L").convert("RGB") for p in pils(images)])
    assert_equal(color.autocontrast(images), [ImageOps.autocontrast(p) for p in pils(images)])
    assert_equal(color.equalize(images), [ImageOps.equalize(p) for p in pils(images)])
    assert_equal(color.invert(images), [ImageOps.invert(p) for p in pils(images)])
    assert_equal(color.solarize(images), [ImageOps.solarize(p, 128) for p in pils(images)])
    bits = torch.tensor([1, 2, 3, 4, 7, 8])
    assert_equal(
        color.posterize(images, bits), [ImageOps.posterize(p, int(b)) for p, b in zip(pils(images), bits, strict=True)]
    )


def test_hue_turns_as_torchvision_turns_pil(images: Tensor) -> None:
    turns = torch.tensor([-0.5, -0.1, -0.0336, 0.0, 0.07, 0.1])
    want = []
    for picture, turn in zip(pils(images), turns.tolist(), strict=True):
        h, s, v = picture.convert("HSV").split()
        shifted = np.asarray(h) + np.array(turn * 255).astype(np.int64).astype(np.uint8)
        want.append(Image.merge("HSV", (Image.fromarray(shifted), s, v)).convert("RGB"))
    assert_equal(color.hue(images, turns), want)


def test_blur(images: Tensor) -> None:
    radius = torch.tensor([0.1, 0.43, 0.98, 1.5, 2.0, 3.3])
    want = [p.filter(ImageFilter.GaussianBlur(float(r))) for p, r in zip(pils(images), radius, strict=True)]
    assert_equal(gaussian_blur(images, radius), want)
    assert torch.equal(gaussian_blur(images, torch.zeros(COUNT)), images)


@pytest.mark.parametrize(("number", "resample"), [(2, "BILINEAR"), (3, "BICUBIC")])
def test_affine(number: int, resample: str, images: Tensor) -> None:
    kernel, kinds = Image.Resampling[resample], torch.full((COUNT,), number)
    angles = torch.tensor([6.0, -5.1, 0.0, 30.0, 4.2, -14.0], dtype=torch.float64)
    want = [
        p.rotate(float(a), resample=kernel, fillcolor=(128,) * 3) for p, a in zip(pils(images), angles, strict=True)
    ]
    assert_equal(affine.transform(images, affine.rotation(angles, SIZE, SIZE), kinds), want)
    values = torch.tensor([-0.3, -0.06, 0.0, 0.06, 0.11, 0.3], dtype=torch.float64)
    for name, row in {
        "ShearX": lambda v: (1, v, 0, 0, 1, 0),
        "ShearY": lambda v: (1, 0, 0, v, 1, 0),
        "TranslateXRel": lambda v: (1, 0, v * SIZE, 0, 1, 0),
        "TranslateYRel": lambda v: (1, 0, 0, 0, 1, v * SIZE),
    }.items():
        want = [
            p.transform(p.size, Image.Transform.AFFINE, row(float(v)), resample=kernel, fillcolor=(128,) * 3)
            for p, v in zip(pils(images), values, strict=True)
        ]
        assert_equal(apply_op(images, name, values, kinds), want)


@pytest.mark.parametrize(("kernel", "pil"), [("bicubic", "BICUBIC"), ("bilinear", "BILINEAR")])
def test_crops_are_resized_as_pil_does(kernel: str, pil: str, images: Tensor) -> None:
    crops = torch.tensor(
        [[0, 0, 40, 40], [5, 3, 30, 33], [2, 12, 37, 21], [5, 5, 20, 25], [0, 4, 39, 28], [10, 2, 30, 32]]
    )
    want = [
        p.crop((left, top, left + wide, top + tall)).resize((SIZE, SIZE), Image.Resampling[pil])
        for p, (top, left, tall, wide) in zip(pils(images), crops.tolist(), strict=True)
    ]
    assert_equal(resized_crops(images, crops, SIZE, kernel, "pil"), want)  # type: ignore[arg-type]


def test_crops_are_resized_as_torch_does(images: Tensor) -> None:
    crops = torch.tensor(
        [[0, 0, 40, 40], [5, 3, 30, 33], [2, 12, 37, 21], [5, 5, 20, 25], [0, 4, 39, 28], [10, 2, 30, 32]]
    )
    for size in (SIZE, 24):
        got = resized_crops(images, crops, size, "bilinear", "torch")
        for image, row, (top, left, tall, wide) in zip(images, got, crops.tolist(), strict=True):
            piece = image[top : top + tall, left : left + wide].permute(2, 0, 1)[None].float()
            want = torch.nn.functional.interpolate(piece, (size, size), mode="bilinear", antialias=True).round()
            assert (row.permute(2, 0, 1) - want[0]).abs().max() <= 1


def test_jitter_follows_its_order(images: Tensor) -> None:
    torch.manual_seed(0)
    order = torch.stack([torch.randperm(4) for _ in range(COUNT)])
    factors = torch.tensor([[1.3, 0.7, 1.5, 0.05]]).expand(COUNT, 4)
    for module in (color, tensor_color):
        got = apply_jitter(images, Jitter(order, factors), module)
        for k in range(COUNT):
            x = images[k : k + 1]
            for code in order[k].tolist():
                name = ("brightness", "contrast", "saturation", "hue")[code]
                x = getattr(module, name)(x, factors[k : k + 1, code])
            assert torch.equal(got[k], x[0])


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seed, 5, torch.arange(count))


def test_crops_have_the_area_and_shape_that_are_asked_for() -> None:
    crops = draw_crops(draws(4000), "crop", 112, 112, (0.4, 1.0), (3 / 4, 4 / 3)).double()
    top, left, tall, wide = crops.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 112).all()
    assert (left + wide <= 112).all()
    area = tall * wide / 112**2
    assert 0.38 < area.min() < 0.42
    assert area.max() > 0.97
    assert 0.74 < (wide / tall).min() < 0.78
    assert 1.28 < (wide / tall).max() < 1.35


def batch(images: Tensor, color_order: str = "rgb") -> Batch:
    index = torch.arange(len(images))
    return Batch({"image": images}, {"image": Field("image")}, color_order, index, index)


def test_rand_augment_draws_what_it_says() -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1500, 8, 8, 3)).astype(np.uint8))
    changed = RandAugment(2, 0.5, layers=1, p=0.5)(batch(images), draws(1500))["image"]
    share = (changed != images).flatten(1).any(1).float().mean()
    assert 0.40 < share < 0.50  # half of the samples, less the ops that leave noise as it is
    again = RandAugment(2, 0.5, layers=1, p=0.5)(batch(images[700:]), Draws(0, 5, torch.arange(700, 1500)))["image"]
    assert torch.equal(again, changed[700:])  # whatever the batch
    assert torch.equal(RandAugment(p=0.0)(batch(images), draws(1500))["image"], images)


def test_rand_augment_of_a_bgr_batch_is_that_of_rgb(images: Tensor) -> None:
    augment = RandAugment(2, 0.5, p=1.0)
    rgb = augment(batch(images), draws(COUNT))["image"]
    bgr = augment(batch(images.flip(3), "bgr"), draws(COUNT))["image"]
    assert torch.equal(bgr.flip(3), rgb)
    assert not torch.equal(rgb, images)


def test_levels() -> None:
    one = torch.ones(1)
    assert level("Rotate", 2 * one, one).item() == pytest.approx(6)
    assert level("PosterizeIncreasing", one, one).item() == 4
    assert level("PosterizeIncreasing", 2.6 * one, one).item() == 3
    assert level("ColorIncreasing", 2 * one, -one).item() == pytest.approx(0.82)
    assert level("ShearX", 2 * one, -one).item() == pytest.approx(-0.06)
    assert level("TranslateXRel", 2 * one, one).item() == pytest.approx(0.09)
    assert set(GEOMETRIC) < set(OPS)


def test_the_string_of_timm() -> None:
    made = RandAugment.from_string("rand-m1-mstd0.5-inc1")
    assert (made.magnitude, made.deviation, made.layers, made.p) == (1.0, 0.5, 2, 0.5)
    with pytest.raises(ConfigError, match="not understood"):
        RandAugment.from_string("rand-m1-mstd0.5")
    with pytest.raises(ConfigError, match="magnitude=11"):
        RandAugment(11)


def test_erasing_is_black_and_as_large_as_it_says() -> None:
    images = torch.full((600, 64, 64, 3), 200, dtype=torch.uint8)
    still = CropJitterErase(scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=(0.0, 0.0, 0.0, 0.0))
    out = still(batch(images), draws(600))["image"]
    hole = (out == 0).all(-1).float().mean((1, 2))
    assert 0.42 < (hole > 0).float().mean() < 0.58
    assert hole[hole > 0].min() > 0.012
    assert hole.max() < 0.115
    assert torch.equal(out[hole == 0], images[hole == 0])
    with pytest.raises(ConfigError, match="square"):
        still(batch(images[:, :32]), draws(600))
