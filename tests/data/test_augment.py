"""AdaFace's augmentation: to the bit with given draws, and the batched transforms against those functions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from facex.data.augment import (
    PHOTOMETRIC,
    CropOnBlack,
    LowResolution,
    Photometric,
    RandomImageChange,
    crop_on_black,
    low_resolution,
    photometric,
)
from facex.data.draws import Draws
from facex.data.resample import CV2_KERNELS, cv2_weights, triangle_weights
from facex.errors import ConfigError
from facex.methods.batch import Batch, Field

N, SIZE = 48, 56
KERNELS = list(CV2_KERNELS)


def make_batch(n: int = N, size: int = SIZE, color: str = "rgb") -> Batch:
    """Smooth pictures with some noise, and fields that nothing here may touch."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 5, 5, 3)).astype(np.uint8)
    images = np.stack([cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC) for c in coarse]).astype(int)
    images = (images + rng.integers(-9, 10, images.shape)).clip(0, 255).astype(np.uint8)
    fields = {
        "image": torch.from_numpy(images),
        "mask": torch.from_numpy(rng.integers(0, 2, (n, size, size)).astype(np.uint8) * 255),
        "points": torch.from_numpy(rng.random((n, 5, 2)).astype(np.float32)),
        "label": torch.arange(n),
    }
    kinds = {"image": Field("image"), "mask": Field("mask"), "points": Field("points"), "label": Field("label")}
    return Batch(fields, kinds, color, torch.arange(n), torch.arange(n))


def draws(n: int = N, number: int = 0) -> Draws:
    return Draws(11, number, torch.arange(n))


def scoped(transform: RandomImageChange, n: int = N) -> Draws:
    return draws(n).scoped(type(transform).__name__)


def test_photometric_is_pils_arithmetic() -> None:
    image_module = pytest.importorskip("PIL.Image")
    enhance = pytest.importorskip("PIL.ImageEnhance")
    rng = np.random.default_rng(1)
    for _ in range(50):
        image = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
        factors, order = rng.uniform(0.5, 1.5, 3).astype(np.float32), rng.permutation(4)
        picture = image_module.fromarray(image)
        for code in order[order < 3]:
            picture = (enhance.Brightness, enhance.Contrast, enhance.Color)[code](picture).enhance(float(factors[code]))
        assert np.array_equal(photometric(image, order.tolist(), *factors.tolist()), np.asarray(picture))


def test_photometric_in_bgr_is_the_same_picture() -> None:
    image = make_batch(1)["image"][0].numpy()
    plain = photometric(image, (2, 0, 1), 0.8, 1.2, 0.5)
    turned = photometric(image[..., ::-1], (2, 0, 1), 0.8, 1.2, 0.5, color="bgr")
    assert np.array_equal(turned[..., ::-1], plain)


def test_crop_and_low_resolution_of_one_picture() -> None:
    image = make_batch(1)["image"][0].numpy()
    out = crop_on_black(image, 5, 7, 20, 30)
    assert np.array_equal(out[5:25, 7:37], image[5:25, 7:37])
    assert out.sum() == image[5:25, 7:37].sum()
    assert crop_on_black(image, -3, 0, 5, 90)[:2].any()
    small = low_resolution(image, 0.5, "nearest", "nearest")
    assert np.array_equal(small[::2, ::2], image[::2, ::2])
    with pytest.raises(ConfigError, match="unknown kernel"):
        low_resolution(image, 0.5, "bicubic")
    with pytest.raises(ConfigError, match="no pixel"):
        low_resolution(image, 0.01)


@pytest.mark.parametrize("kernel", KERNELS)
def test_blends_are_opencvs_resize(kernel: str) -> None:
    """Both directions, both axes at once, on float pictures: the matrices are the resize."""
    image = np.random.default_rng(3).random((SIZE, SIZE)).astype(np.float32)
    for source, target in ((SIZE, 11), (SIZE, 39), (SIZE, SIZE), (39, SIZE), (11, SIZE)):
        part = np.ascontiguousarray(image[:source, :source])
        want = cv2.resize(part, (target, target), interpolation=CV2_KERNELS[kernel])
        weights = cv2_weights(source, target, kernel)
        np.testing.assert_allclose(weights @ part @ weights.T, want, atol=2e-5)


def test_triangle_is_torchs_antialiased_resize() -> None:
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for target in (17, 40, SIZE):
        want = torch.nn.functional.interpolate(image, (target, target), mode="bilinear", antialias=True)
        weights = torch.from_numpy(triangle_weights(SIZE, target))
        torch.testing.assert_close(weights @ image[0, 0] @ weights.T, want[0, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_photometric_batch_equals_the_function(color: str) -> None:
    batch, transform = make_batch(color=color), Photometric(1.0)
    out = transform(batch, draws())["image"]
    order, factors = transform.changes(scoped(transform))
    for row in range(N):
        want = photometric(batch["image"][row].numpy(), order[row].tolist(), *factors[row].tolist(), color=color)
        assert np.array_equal(out[row].numpy(), want)
    assert len({tuple(o) for o in order.tolist()}) == 6
    assert factors.min() < 0.6
    assert 1.4 < factors.max() <= 1.5
    assert len(PHOTOMETRIC) == 3


def test_low_resolution_batch_is_near_opencvs() -> None:
    """OpenCV's 8-bit resize is fixed point: 1 off, and a second rounding on top."""
    batch, transform = make_batch(), LowResolution(1.0)
    out = transform(batch, draws())["image"].numpy().astype(int)
    side, down, up = transform.sizes(scoped(transform), SIZE)
    assert int(SIZE * 0.2) <= side.min() < 16
    assert 50 < side.max() < SIZE
    assert set(down.tolist()) == set(up.tolist()) == set(range(5))
    for row in range(N):
        ratio = (float(side[row]) + 0.5) / SIZE
        want = low_resolution(batch["image"][row].numpy(), ratio, KERNELS[down[row]], KERNELS[up[row]])
        difference = np.abs(out[row] - want)
        assert difference.max() <= 2, (side[row], KERNELS[down[row]], KERNELS[up[row]])
        assert difference.mean() < 0.35


def test_crop_batch_equals_the_function_and_keeps_its_promises() -> None:
    batch, transform = make_batch(), CropOnBlack(1.0)
    out = transform(batch, draws())["image"]
    boxes = torch.stack(transform.rectangles(scoped(transform), SIZE, SIZE), 1)
    for row in range(N):
        assert np.array_equal(out[row].numpy(), crop_on_black(batch["image"][row].numpy(), *boxes[row].tolist()))
    many = CropOnBlack(1.0).rectangles(draws(4000), 112, 112)
    top, left, height, width = (v.numpy() for v in many)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 112).all()
    assert (left + width <= 112).all()
    share, ratio = height * width / 112**2, width / height
    assert 0.19 < share.min() < 0.21
    assert share.max() > 0.97
    assert 0.72 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.38
    assert abs(np.mean(top / np.maximum(112 - height, 1)) - 0.5) < 0.02
    assert abs(np.mean(np.log(ratio))) < 0.01


def test_a_rectangle_that_never_fits_falls_back_to_the_middle() -> None:
    top, left, height, width = CropOnBlack(1.0, (0.9, 1.0), (3.0, 4.0)).rectangles(draws(3), 40, 40)
    assert (height.tolist(), width.tolist()) == ([round(40 / 3)] * 3, [40] * 3)
    assert top.tolist() == [(40 - round(40 / 3)) // 2] * 3
    assert left.tolist() == [0] * 3


@pytest.mark.parametrize("transform", [CropOnBlack(), LowResolution(), Photometric()], ids=lambda t: type(t).__name__)
def test_only_chosen_images_change(transform: RandomImageChange) -> None:
    """A fifth of the rows; other fields, other rows and the input stay; a micro-batch's cut does not matter."""
    batch = make_batch(200, 24)
    before = batch["image"].clone()
    out = transform(batch, draws(200))
    assert torch.equal(batch["image"], before)
    for name in ("mask", "points", "label"):
        assert out[name] is batch[name]
    changed = (out["image"] != before).flatten(1).any(1)
    chosen = draws(200).scoped(type(transform).__name__).uniform("chosen") < 0.2
    assert 0.1 < changed.float().mean() < 0.3
    assert not (changed & ~chosen).any()
    few = Batch({"image": before[90:110]}, {"image": Field("image")}, "rgb", torch.arange(20), torch.arange(90, 110))
    again = transform(few, Draws(11, 0, torch.arange(90, 110)))
    assert torch.equal(again["image"], out["image"][90:110])
    assert torch.equal(type(transform)(0.0)(batch, draws(200))["image"], before)


def test_three_in_a_row_choose_independently() -> None:
    chosen = [
        draws(4000).scoped(name).uniform("chosen") < 0.2 for name in ("CropOnBlack", "LowResolution", "Photometric")
    ]
    both = (chosen[0] & chosen[1]).float().mean()
    assert abs(float(both) - 0.04) < 0.015
    assert abs(float((chosen[1] & chosen[2]).float().mean()) - 0.04) < 0.015


def test_bad_options_and_pictures() -> None:
    for bad in (
        lambda: CropOnBlack(1.5),
        lambda: CropOnBlack(scale=(0, 1)),
        lambda: LowResolution(ratio=(0.5, 0.2)),
        lambda: Photometric(strength=2),
    ):
        with pytest.raises(ConfigError):
            bad()
    wide = Batch(
        {"image": torch.zeros(2, 8, 9, 3, dtype=torch.uint8)}, {"image": Field("image")}, "rgb", *[torch.arange(2)] * 2
    )
    with pytest.raises(ConfigError, match="square pictures, these are 9x8"):
        LowResolution(1.0)(wide, draws(2))
