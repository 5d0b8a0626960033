"""MSML's training samples, from the occluded uint8 picture to the network's input, batched on the device.

In this order: grey and another size as Pillow makes them, a light map, the mask of clean pixels, and a texture on the
offline-drawn face masks. Flips and occluders are transforms of the training data. Everything takes the numbers it needs, so
that the same code runs on keyed draws (`method.py`) and on the draws of one seeded generator (`official.py`).
Source: the published data pipeline of MSML (Yuan, Zheng, Dong, AAAI 2022).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from facex.errors import DataError

GREY = (19595, 38470, 7471)  # Pillow's 'L' in units of 1/65536
_BITS = 22  # of Pillow's fixed-point blends
LIGHT_RADIUS = 128.0  # pixels, whatever the size of the picture
TEXTURE_GREY = (0.2989, 0.5870, 0.1140)


def grey(images: Tensor, color: str) -> Tensor:
    """Pillow's 8-bit grey: uint8 [b, H, W, 3] in `color` order -> uint8 [b, H, W, 1]."""
    red, green, blue = (images if color == "rgb" else images.flip(3)).int().unbind(-1)
    return ((red * GREY[0] + green * GREY[1] + blue * GREY[2] + 0x8000) >> 16).to(torch.uint8).unsqueeze(-1)


@functools.lru_cache(maxsize=16)
def bilinear_weights(source: int, target: int, device: torch.device) -> Tensor:
    """Pillow's bilinear blend (the triangle widens when it shrinks) from `source` to `target` pixels, in units of 2^-22:
    whole numbers as float64 [target, source]."""
    scale = source / target
    wide = max(scale, 1.0)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    first = (centre - wide + 0.5).long().clamp(min=0)
    last = (centre + wide + 0.5).long().clamp(max=source)
    at = torch.arange(source)[None]
    blend = (1 - ((at - centre[:, None] + 0.5) / wide).abs()).clamp(min=0)
    blend = torch.where((at >= first[:, None]) & (at < last[:, None]), blend, torch.zeros_like(blend))
    blend /= blend.sum(1, keepdim=True)
    return (blend * (1 << _BITS) + 0.5).floor().to(device)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Pillow's bilinear resize of 8-bit pictures: uint8 [b, H, W, C] -> uint8 [b, height, width, C], rounded to bytes
    between columns and rows. The sums stay below 2^53, so float64 products hold them exactly."""
    planes = images.permute(0, 3, 1, 2)
    if planes.shape[3] != width:
        planes = _rounded(planes.double() @ bilinear_weights(planes.shape[3], width, images.device).T)
    if planes.shape[2] != height:
        planes = _rounded(bilinear_weights(planes.shape[2], height, images.device) @ planes.double())
    return planes.permute(0, 2, 3, 1).to(torch.uint8)


def _rounded(sums: Tensor) -> Tensor:
    return ((sums + (1 << (_BITS - 1))) * 2.0**-_BITS).floor().clamp(0, 255)


def light(images: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    """Light from one place: float32 [b, C, H, W] in 0..1, times a factor, times exp(-d^2 / (2 128^2)), over its own maximum.

    `centre` float64 [b, 2]: x and y of the light in pixels; `factor` [b], which the maximum undoes but for its rounding:
    map, factor and their product are in half precision, and distances along an axis lose their fraction, as published. A
    black picture stays black.
    """
    height, width = images.shape[2:]
    dx = (torch.arange(width, device=images.device)[None] - centre[:, :1]).trunc()
    dy = (torch.arange(height, device=images.device)[None] - centre[:, 1:]).trunc()
    squared = dx[:, None, :].square() + dy[:, :, None].square()
    strength = torch.exp(-0.5 * squared / LIGHT_RADIUS**2).half() * factor.half()[:, None, None]
    lit = images * strength.float()[:, None]
    most = lit.amax((1, 2, 3), keepdim=True)
    return lit / torch.where(most > 0, most, torch.ones_like(most))


@dataclass
class TextureDraws:
    """The numbers of a mask texture, a row a picture.

    kind int64 [b] in 0..10: up to 4 constant, 5 and 6 noise, above a Gaussian bump; box int64 [b, 4]: left, top, right,
    bottom in pixels; centre float64 [b, 2]: x, y of the bump, radius float64 [b]; sign float32 [b], 1 or -1; keep bool
    [b, 3]: colour channels that take part; noise float32 [b, 3, H, W], standard normal.
    """

    kind: Tensor
    box: Tensor
    centre: Tensor
    radius: Tensor
    sign: Tensor
    keep: Tensor
    noise: Tensor


def texture(draws: TextureDraws, height: int, width: int, channels: int = 3) -> Tensor:
    """What is subtracted where a face mask lies: float32 [b, channels, height, width], 0 outside the box.

    1, noise, or 0.4 (2 G - 1) with G a Gaussian bump. Its centre counts from the picture's corner, its distances from the
    box's: so it is published. One channel: the grey of the three.
    """
    x = torch.arange(width, device=draws.kind.device)[None]
    y = torch.arange(height, device=draws.kind.device)[None]
    left, top, right, bottom = (v[:, None] for v in draws.box.unbind(1))
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    dx = (x - left - draws.centre[:, :1]).trunc()
    dy = (y - top - draws.centre[:, 1:]).trunc()
    squared = dx[:, None, :].square() + dy[:, :, None].square()
    bump = 0.4 * (2 * torch.exp(-0.5 * squared / draws.radius.square()[:, None, None]) - 1).float()
    kind = draws.kind[:, None, None, None]
    values = torch.where(kind > 6, bump[:, None], torch.where(kind > 4, draws.noise, torch.ones_like(draws.noise)))
    signed = torch.where((kind == 5) | (kind == 6), values, values * draws.sign[:, None, None, None])
    kept = signed * (draws.keep | (draws.kind <= 4)[:, None])[:, :, None, None] * inside[:, None]
    if channels == 3:
        return kept
    weights = kept.new_tensor(TEXTURE_GREY).view(1, 3, 1, 1)
    return (kept * weights).sum(1, keepdim=True) / 3


class Numbers(Protocol):
    """Keyed random numbers of one micro-batch: `facex.methods.Context` has them."""

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """float32 [b, *shape] in [0, 1)."""
        ...

    def normal(self, stream: str, *shape: int) -> Tensor:
        """float32 [b, *shape], standard normal."""
        ...


def keyed_light(numbers: Numbers, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Places of the light, uniform in the picture: float64 [b, 2]; factors U(0.7, 1.4), float32 [b]."""
    drawn = numbers.uniform("light", 3)
    size = torch.tensor([width, height], dtype=torch.float64, device=drawn.device)
    return drawn[:, :2].double() * size, 0.7 + 0.7 * drawn[:, 2]


def keyed_texture(numbers: Numbers, height: int, width: int) -> TextureDraws:
    """The texture's numbers, with the published ranges (of 112 pixels, whatever the size)."""
    drawn = numbers.uniform("texture", 12)

    def between(column: int, low: int, high: int) -> Tensor:
        return low + (drawn[:, column] * (high - low)).long()

    kind = between(0, 0, 11)
    flat = kind <= 4
    left, right = 40 + between(1, -20, 21), 100 + between(2, -20, 11)
    top = torch.where(flat, 40 + between(3, -20, 20), torch.ones_like(kind))
    bottom = torch.where(flat, 100 + between(4, -20, 10), torch.full_like(kind, 111))
    wide, high = right - left, bottom - top
    longer = torch.maximum(wide, high).double()
    least, most = (longer / 1.5).floor(), (longer * 1.5).floor()
    return TextureDraws(
        kind,
        torch.stack([left, top, right, bottom], 1),
        torch.stack([left + wide * drawn[:, 5].double(), top + high * drawn[:, 6].double()], 1),
        least + (most - least) * drawn[:, 7].double(),
        between(8, 0, 2).float() * 2 - 1,
        drawn[:, 9:12] < 0.5,
        numbers.normal("noise", 3, height, width),
    )


def clean_pixels(occlusion: Tensor, height: int, width: int, twin: Tensor | None = None) -> Tensor:
    """Pixels that show the face: bool [b, height, width], from the occlusion mask uint8 [b, H, W] (255 = occluded).

    A mask of another size is resized smoothly; then a pixel that an occluder touches at all is occluded, but on rows of
    `twin` (bool [b]: an offline-drawn face mask, stored as JPEG) one that is half covered. Raises DataError for a mask that
    is not uint8 [b, H, W].
    """
    if occlusion.dtype != torch.uint8 or occlusion.ndim != 3:
        raise DataError(
            f"the occlusion mask is {occlusion.dtype} {list(occlusion.shape)}; needed is uint8 [b, H, W], 255 = occluded"
        )
    clean = resize((255 - occlusion).unsqueeze(3), height, width)[..., 0]
    if twin is None:
        return clean == 255
    return torch.where(twin[:, None, None], clean > 128, clean == 255)
