"""arcface_torch's heavier augmentation (its `dali_aug`) as transforms: each decides for itself, in the order below.

Source: insightface recognition/arcface_torch/dataset.py, dali_data_iter: `ResizeThereAndBack`, `SlightBlur`,
`HueSaturation`, `RandomGrey`, then the flip. DALI is not needed, and its pictures are not reproduced to the bit: its
resize and colour arithmetic differ between versions and devices.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from facex.data.augment import RandomImageChange, _side
from facex.data.draws import Draws
from facex.data.resample import round_bytes, there_and_back
from facex.errors import ConfigError

# RGB to luma and two colour axes (YIQ), as DALI turns hues.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.321), (0.211, -0.523, 0.311))


class ResizeThereAndBack(RandomImageChange):
    """Shrink a square picture to a side of U(`shares`) of it and back, anti-aliased linear both ways (56 to 89 of 112
    pixels by default)."""

    KERNELS = ("triangle",)

    def __init__(self, p: float = 0.1, shares: tuple[float, float] = (0.5, 0.8)) -> None:
        super().__init__(p)
        if not 0 < shares[0] <= shares[1] <= 1:
            raise ConfigError(f"ResizeThereAndBack: shares={shares} lie in 0..1, rising")
        self.shares = shares

    def change(self, images: Tensor, draws: Draws, color: str) -> Tensor:
        size = _side(images, "ResizeThereAndBack")
        low, high = (int(size * share) for share in self.shares)
        side = (low + draws.uniform("side") * (high - low)).long().clamp(1, size)
        return there_and_back(images, side, torch.zeros_like(side), torch.zeros_like(side), self.KERNELS)


class SlightBlur(RandomImageChange):
    """Gaussian blur in a window of 3 pixels with sigma 0.8 (the window's own by OpenCV's and DALI's rule)."""

    def __init__(self, p: float = 0.2, sigma: float = 0.8) -> None:
        super().__init__(p)
        if sigma <= 0:
            raise ConfigError(f"SlightBlur: sigma={sigma} must be positive")
        self.sigma = sigma

    def change(self, images: Tensor, draws: Draws, color: str) -> Tensor:
        side = math.exp(-1 / (2 * self.sigma**2))
        line = torch.tensor([side, 1.0, side], device=images.device) / (1 + 2 * side)
        planes = F.pad(images.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="reflect")
        planes = line[0] * planes[:, :, :-2] + line[1] * planes[:, :, 1:-1] + line[2] * planes[:, :, 2:]
        planes = line[0] * planes[..., :-2] + line[1] * planes[..., 1:-1] + line[2] * planes[..., 2:]
        return round_bytes(planes).permute(0, 2, 3, 1).to(images.dtype)


class HueSaturation(RandomImageChange):
    """Turn the hue by U(0, `hue`) degrees and multiply the saturation by U(`saturation`), as a linear map of colours that
    keeps the luma."""

    def __init__(self, p: float = 0.2, hue: float = 20.0, saturation: tuple[float, float] = (1.0, 1.2)) -> None:
        super().__init__(p)
        if saturation[0] < 0 or saturation[0] > saturation[1]:
            raise ConfigError(f"HueSaturation: saturation={saturation} must rise from 0 or more")
        self.hue, self.saturation = hue, saturation

    def change(self, images: Tensor, draws: Draws, color: str) -> Tensor:
        angle = draws.uniform("hue") * math.radians(self.hue)
        low, high = self.saturation
        return _turn(images, angle, low + draws.uniform("saturation") * (high - low), color)


class RandomGrey(RandomImageChange):
    """Take the colour out: every channel becomes the luma."""

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def change(self, images: Tensor, draws: Draws, color: str) -> Tensor:
        zero = torch.zeros(len(images), device=images.device)
        return _turn(images, zero, zero, color)


def _turn(images: Tensor, angle: Tensor, saturation: Tensor, color: str) -> Tensor:
    """Colours of uint8 [b, H, W, 3] with the two colour axes turned by `angle` [b] and scaled by `saturation` [b]."""
    yiq = torch.tensor(_YIQ, device=images.device)
    cos, sin = angle.cos() * saturation, angle.sin() * saturation
    turned = torch.zeros(len(images), 3, 3, device=images.device)
    turned[:, 0, 0] = 1
    turned[:, 1, 1], turned[:, 1, 2], turned[:, 2, 1], turned[:, 2, 2] = cos, sin, -sin, cos
    matrix = torch.linalg.inv(yiq) @ turned @ yiq  # [b, 3, 3], on RGB columns
    if color == "bgr":
        matrix = matrix.flip(1, 2)
    pixels = images.flatten(1, 2).float() @ matrix.mT
    return round_bytes(pixels).to(images.dtype).view_as(images)
