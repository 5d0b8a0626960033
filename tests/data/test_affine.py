"""RandomAffine moves pictures and points alike, and is the identity where nothing is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facex.data.affine import RandomAffine
from facex.data.draws import Draws
from facex.errors import ConfigError
from facex.methods import Batch, Field


def batch_of(images: torch.Tensor, points: torch.Tensor) -> Batch:
    n = len(images)
    kinds = {"image": Field("image"), "points": Field("points"), "mask": Field("mask")}
    fields = {"image": images, "points": points, "mask": images[..., 0].contiguous()}
    return Batch(fields, kinds, "rgb", torch.arange(n), torch.arange(n))


def spots(n: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with one round spot each, and the place of its centre."""
    rng = np.random.default_rng(0)
    points = rng.uniform([0.3 * width, 0.3 * height], [0.7 * width, 0.7 * height], (n, 2)).astype(np.float32)
    y, x = np.mgrid[:height, :width]
    spot = 255 * np.exp(-((x - points[:, :1, None]) ** 2 + (y - points[:, 1:, None]) ** 2) / 18)
    return torch.from_numpy(np.repeat(spot[..., None], 3, 3).round().astype(np.uint8)), torch.from_numpy(points)[
        :, None
    ]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_a_spot_and_its_point_stay_together(height: int, width: int) -> None:
    images, points = spots(16, height, width)
    moved = RandomAffine(degrees=25, scale=0.2, pixels=5)(batch_of(images, points), Draws(3, 1, torch.arange(16)))
    weight = moved["image"][..., 0].double()
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    total = weight.sum((1, 2))
    centre = torch.stack([(weight * x).sum((1, 2)) / total, (weight * y).sum((1, 2)) / total], 1)
    assert (moved["points"][:, 0] - points[:, 0]).abs().max() > 2
    torch.testing.assert_close(moved["points"][:, 0].double(), centre, atol=0.25, rtol=0)


def test_nothing_asked_for_nothing_done() -> None:
    images, points = spots(4, 32, 32)
    moved = RandomAffine(0, 0, 0)(batch_of(images, points), Draws(0, 0, torch.arange(4)))
    assert torch.equal(moved["image"], images)
    assert torch.equal(moved["mask"], images[..., 0])
    torch.testing.assert_close(moved["points"], points)


def test_a_bad_range_is_named() -> None:
    with pytest.raises(ConfigError, match=r"scale=1\.5"):
        RandomAffine(scale=1.5)
