"""arcface_torch's heavier augmentation, each transform against plain arithmetic."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from facex.data.augment import RandomImageChange
from facex.data.augment_dali import HueSaturation, RandomGrey, ResizeThereAndBack, SlightBlur
from facex.errors import ConfigError
from tests.data.test_augment import SIZE, N, draws, make_batch, scoped

ALL = [ResizeThereAndBack, SlightBlur, HueSaturation, RandomGrey]


def test_resize_there_and_back() -> None:
    batch, transform = make_batch(), ResizeThereAndBack(1.0)
    out = transform(batch, draws())["image"]
    low, high = int(SIZE * 0.5), int(SIZE * 0.8)
    side = (low + scoped(transform).uniform("side") * (high - low)).long()
    for row in range(N):
        x = batch["image"][row].permute(2, 0, 1)[None].float()
        for target in (int(side[row]), SIZE):
            x = (
                torch.nn.functional.interpolate(x, (target, target), mode="bilinear", antialias=True)
                .round()
                .clamp(0, 255)
            )
        assert (out[row].float() - x[0].permute(1, 2, 0)).abs().max() <= 1


def test_blur_is_opencvs() -> None:
    batch = make_batch()
    out = SlightBlur(1.0)(batch, draws())["image"].numpy().astype(int)
    for row in range(N):
        want = cv2.GaussianBlur(batch["image"][row].numpy(), (3, 3), 0.8, borderType=cv2.BORDER_REFLECT_101)
        assert np.abs(out[row] - want).max() <= 1


def test_hue_and_saturation_keep_the_luma() -> None:
    """No turn and factor 1 is the picture itself; otherwise the luma stays and the colours move."""
    batch = make_batch()
    batch["image"].copy_(batch["image"] // 2 + 60)  # room on both sides, so that nothing is cut off
    same = HueSaturation(1.0, 0.0, (1.0, 1.0))(batch, draws())["image"]
    assert (same.int() - batch["image"].int()).abs().max() <= 1
    out = HueSaturation(1.0)(batch, draws())["image"].float()
    luma = torch.tensor([0.299, 0.587, 0.114])
    inside = ((out > 0) & (out < 255)).all(-1)
    assert ((out @ luma) - (batch["image"].float() @ luma)).abs()[inside].max() < 1.5
    assert (out - batch["image"].float()).abs().max() > 10


def test_grey_and_colour_order() -> None:
    """A BGR batch gives the RGB batch's pictures, channels turned."""
    batch = make_batch()
    turned = make_batch(color="bgr").with_fields(image=batch["image"].flip(-1))
    for transform in (RandomGrey(1.0), HueSaturation(1.0)):
        plain, other = transform(batch, draws())["image"].int(), transform(turned, draws())["image"].int()
        assert (plain - other.flip(-1)).abs().max() <= 1
    grey = RandomGrey(1.0)(batch, draws())["image"].float()
    assert (grey.amax(-1) - grey.amin(-1)).max() <= 1
    assert (grey[..., 0] - batch["image"].float() @ torch.tensor([0.299, 0.587, 0.114])).abs().max() <= 1


@pytest.mark.parametrize("kind", ALL)
def test_probability(kind: type[RandomImageChange]) -> None:
    batch = make_batch(200, 24)
    changed = (kind()(batch, draws(200))["image"] != batch["image"]).flatten(1).any(1).float().mean()
    assert abs(float(changed) - kind().p) < 0.08


def test_bad_options() -> None:
    for bad in (
        lambda: ResizeThereAndBack(shares=(0.9, 0.5)),
        lambda: SlightBlur(sigma=0),
        lambda: HueSaturation(saturation=(2, 1)),
        lambda: RandomGrey(-1),
    ):
        with pytest.raises(ConfigError):
            bad()
