"""Samples: Pillow's grey and resize to the bit, light and texture by hand, keyed draws, masks, the steps in order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from facex_msml.official import Face, OfficialSamples
from facex_msml.preparation import KeepOriginal, Preparation, complete_input
from facex_msml.samples import TextureDraws, clean_pixels, grey, keyed_light, keyed_texture, light, resize, texture
from PIL import Image

from facex.data.draws import Draws
from facex.data.occluders import OCCLUDERS, Occlude
from facex.errors import ConfigError, DataError
from facex.methods import Batch, Field, InputSpec


def pictures(count: int = 3, side: int = 112) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(0, 256, (count, side, side, 3), np.uint8))


def draws(count: int = 6, first: int = 0) -> Draws:
    return Draws(3, 7, torch.arange(first, first + count))


def make_batch(count: int = 6) -> Batch:
    kinds = {"image": Field("image"), "label": Field("label")}
    fields = {"image": pictures(count), "label": torch.arange(count)}
    return Batch(fields, kinds, "rgb", torch.arange(count), torch.arange(count))


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_grey_is_pillows(color: str) -> None:
    images = pictures()
    got = grey(images, color)
    ordered = images if color == "rgb" else images.flip(3)
    for own, image in zip(got, ordered, strict=True):
        np.testing.assert_array_equal(own[..., 0].numpy(), np.asarray(Image.fromarray(image.numpy()).convert("L")))


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 64), (48, 80), (112, 128), (112, 112)])
def test_resize_is_pillows(height: int, width: int) -> None:
    images = pictures()
    got = resize(images, height, width)
    for own, image in zip(got, images, strict=True):
        pillow = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(own.numpy(), np.asarray(pillow))


def test_light_by_hand() -> None:
    torch.manual_seed(0)
    images, centre, factor = torch.rand(2, 3, 20, 24), torch.tensor([[3.7, 11.2], [20.9, 0.4]]).double(), [0.9, 1.3]
    images[1] *= 0.2
    got = light(images, centre, torch.tensor(factor))
    for n, (x, y) in enumerate(centre.tolist()):
        strength = np.zeros((20, 24))
        for row in range(20):
            for column in range(24):
                d2 = math.trunc(column - x) ** 2 + math.trunc(row - y) ** 2
                value = np.float16(math.exp(-0.5 * d2 / 128**2))
                strength[row, column] = float(np.float16(float(value) * float(np.float16(factor[n]))))
        lit = images[n].double().numpy() * strength
        np.testing.assert_allclose(got[n].numpy(), lit / lit.max(), atol=2e-7)
    assert got.amax((1, 2, 3)).tolist() == [1, 1]
    assert torch.equal(light(torch.zeros(1, 1, 8, 8), centre[:1], torch.ones(1)), torch.zeros(1, 1, 8, 8))


def one_texture(kind: int, **changes: Any) -> TextureDraws:
    torch.manual_seed(1)
    values: dict[str, Any] = {
        "kind": torch.tensor([kind]),
        "box": torch.tensor([[4, 2, 12, 9]]),
        "centre": torch.tensor([[6.3, 5.8]]).double(),
        "radius": torch.tensor([5.0]).double(),
        "sign": torch.tensor([-1.0]),
        "keep": torch.tensor([[True, False, True]]),
        "noise": torch.randn(1, 3, 16, 16),
    }
    return TextureDraws(**{**values, **changes})


def test_texture_by_hand() -> None:
    flat = texture(one_texture(4), 16, 16)[0]
    assert torch.equal(flat[:, 2:9, 4:12], torch.full((3, 7, 8), -1.0))
    assert flat.abs().sum() == 3 * 7 * 8
    noise = one_texture(6)
    shown = texture(noise, 16, 16)[0]
    assert torch.equal(shown[0, 2:9, 4:12], noise.noise[0, 0, 2:9, 4:12])
    assert not shown[1].any()
    bump = texture(one_texture(7), 16, 16)[0]
    for row, column in ((2, 4), (5, 7), (8, 11)):
        d2 = math.trunc(column - 4 - 6.3) ** 2 + math.trunc(row - 2 - 5.8) ** 2
        assert float(bump[2, row, column]) == pytest.approx(-0.4 * (2 * math.exp(-0.5 * d2 / 25) - 1), abs=1e-6)
    assert not bump[:, :2].any()
    assert not bump[:, :, 12:].any()
    one = texture(one_texture(6), 16, 16, channels=1)[0, 0]
    mixed = 0.2989 * shown[0] + 0.5870 * shown[1] + 0.1140 * shown[2]
    torch.testing.assert_close(one, mixed / 3)


def test_keyed_numbers_have_the_published_ranges_and_belong_to_the_sample() -> None:
    many = draws(4000)
    drawn = keyed_texture(many, 16, 16)
    assert sorted(set(drawn.kind.tolist())) == list(range(11))
    left, top, right, bottom = drawn.box.unbind(1)
    flat = drawn.kind <= 4
    assert (int(left.min()), int(left.max()), int(right.min()), int(right.max())) == (20, 60, 80, 110)
    assert (int(top[flat].min()), int(top[flat].max())) == (20, 59)
    assert (int(bottom[flat].min()), int(bottom[flat].max())) == (80, 109)
    assert set(top[~flat].tolist()) == {1}
    assert set(bottom[~flat].tolist()) == {111}
    longer = torch.maximum(right - left, bottom - top)
    assert bool((drawn.radius >= (longer / 1.5).floor()).all())
    assert bool((drawn.radius <= (longer * 1.5).floor()).all())
    assert drawn.keep.float().mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.04)
    centre, factor = keyed_light(many, 100, 200)
    assert centre.amax(0).tolist() == pytest.approx([200, 100], rel=0.01)
    assert (float(factor.min()), float(factor.max())) == pytest.approx((0.7, 1.4), abs=0.01)
    assert torch.equal(keyed_texture(draws(3, 5), 16, 16).box, keyed_texture(draws(8), 16, 16).box[5:])


def test_clean_pixels() -> None:
    occlusion = torch.zeros(2, 112, 112, dtype=torch.uint8)
    occlusion[:, 20:60, 30:90] = 255
    same = clean_pixels(occlusion, 112, 112)
    assert torch.equal(same, occlusion == 0)
    touched, half = clean_pixels(occlusion, 128, 128, torch.tensor([False, True]))
    stored = 255 - occlusion[0].numpy()
    smooth = np.asarray(Image.fromarray(stored).resize((128, 128), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(touched.numpy(), smooth == 255)
    np.testing.assert_array_equal(half.numpy(), smooth > 128)
    assert half.sum() > touched.sum()
    with pytest.raises(DataError, match=r"float32.*needed is uint8 \[b, H, W\]"):
        clean_pixels(occlusion.float(), 112, 112)
    with pytest.raises(DataError, match="255 = occluded"):
        clean_pixels(occlusion[..., None], 112, 112)


def test_preparation_follows_the_steps() -> None:
    untouched = make_batch(16)
    numbers = draws(16)
    batch = Occlude({"rectangle": 0.5, "mask": 0.5})(KeepOriginal()(untouched, numbers), numbers)
    spec = InputSpec()
    plain = Preparation(spec, light=False, texture=False)(batch, numbers)
    expected = (batch["image"].permute(0, 3, 1, 2).float() - 127.5) / 127.5
    torch.testing.assert_close(plain["image"], expected)
    torch.testing.assert_close(plain["original"], (untouched["image"].permute(0, 3, 1, 2).float() - 127.5) / 127.5)
    assert torch.equal(plain["occlusion"], batch["occlusion"])
    lit = Preparation(spec, texture=False)(batch, numbers)
    wanted = light(batch["image"].permute(0, 3, 1, 2).float() / 255, *keyed_light(numbers, 112, 112))
    torch.testing.assert_close(lit["image"], wanted * 2 - 1)
    full = Preparation(spec)(batch, numbers)
    masked = batch["occluder"] == OCCLUDERS.index("mask")
    changed = (full["image"] != lit["image"]).any(1)
    assert bool(changed[masked].any())
    assert not changed[~masked].any()
    assert not (changed & (batch["occlusion"] == 0)).any()
    drawn = texture(keyed_texture(numbers, 112, 112), 112, 112) * (changed[:, None])
    torch.testing.assert_close(full["image"], lit["image"] - 2 * drawn, atol=2e-6, rtol=0)


def test_preparation_of_grey_and_bgr() -> None:
    batch = make_batch(2)
    spec = complete_input(None, True, None)
    assert (spec.height, spec.mean, spec.std) == (128, (0, 0, 0), (255, 255, 255))
    shown = Preparation(spec, gray=True, light=False)(batch, draws(2))["image"]
    for own, image in zip(shown, batch["image"], strict=True):
        pillow = Image.fromarray(image.numpy()).convert("L").resize((128, 128), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(own[0].numpy(), np.asarray(pillow) / 255, atol=1e-6)
    swapped = Preparation(InputSpec(color="bgr"), light=False)(batch, draws(2))["image"]
    torch.testing.assert_close(swapped.flip(1), Preparation(InputSpec(), light=False)(batch, draws(2))["image"])
    with pytest.raises(ConfigError, match="alike in all channels"):
        complete_input(InputSpec(mean=(1.0, 2.0, 3.0)), True, None)


def test_policies_have_the_published_shares() -> None:
    face = Face(pictures(1, 40)[0].numpy(), 4, np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8))
    for policy, clean, twins in (("ms1m", 0.8 / 7, 0.2), ("casia", 0.4, 0.2)):
        build = OfficialSamples(policy, (40, 40))  # type: ignore[arg-type]
        found = [build(face, np.random.RandomState(seed)) for seed in range(150)]
        assert np.mean([bool(s.mask.all()) for s in found]) == pytest.approx(clean, abs=0.1)
        assert np.mean([not s.mask.any() for s in found]) == pytest.approx(twins, abs=0.1)
        assert {s.label for s in found} == {4}
    with pytest.raises(ConfigError, match="ms1m or casia"):
        OfficialSamples("paper")  # type: ignore[arg-type]
