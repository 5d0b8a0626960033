"""PIL's affine transforms with bilinear or bicubic sampling and a fill colour, a map a picture.

Source: Pillow Image.rotate, Image.transform and src/libImaging/Geometry.c.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BILINEAR, BICUBIC = 2, 3  # PIL's numbers
FILL = 128


def transform(images: Tensor, matrix: Tensor, resample: Tensor, fill: int = FILL) -> Tensor:
    """uint8 [B, H, W, 3]: pixel (x, y) is read at (a x + b y + c, d x + e y + f) for matrix float64 [B, 6] = (a, b,
    c, d, e, f), centres at halves; `fill` where that is outside. `resample` [B]: 2 bilinear, 3 bicubic."""
    height, width = images.shape[1:3]
    y = (torch.arange(height, device=images.device).double() + 0.5).view(1, -1, 1)
    x = (torch.arange(width, device=images.device).double() + 0.5).view(1, 1, -1)
    a, b, c, d, e, f = (m.view(-1, 1, 1) for m in matrix.double().unbind(1))
    at_x, at_y = a * x + b * y + c, d * x + e * y + f
    outside = (at_x < 0) | (at_x >= width) | (at_y < 0) | (at_y >= height)
    linear = _sample(images, at_x - 0.5, at_y - 0.5, 0, 2, _linear)
    cubic = _sample(images, at_x - 0.5, at_y - 0.5, -1, 4, _cubic)
    found = torch.where((resample == BICUBIC).view(-1, 1, 1, 1), cubic, linear)
    return torch.where(outside[..., None], torch.full_like(found, fill), found)


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """The matrix of PIL's rotate: counter-clockwise about the middle, the size kept; float64 [B, 6]."""
    angle = -torch.deg2rad(degrees.double())
    cos, sin = (torch.round(v * 1e15) / 1e15 for v in (angle.cos(), angle.sin()))
    cx, cy = width / 2, height / 2
    c, f = cx - cos * cx - sin * cy, cy + sin * cx - cos * cy
    return torch.stack([cos, sin, c, -sin, cos, f], 1)


def _linear(a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    return a + (b - a) * d


def _cubic(a: Tensor, b: Tensor, c: Tensor, e: Tensor, d: Tensor) -> Tensor:
    return b + d * ((c - a) + d * ((2 * (a - b) + c - e) + d * (b - a - c + e)))


def _sample(images: Tensor, x: Tensor, y: Tensor, first: int, count: int, joined: Callable[..., Tensor]) -> Tensor:
    """Bytes read at (x, y) float64 [B, H, W] from `count` pixels each way, from place `first` on; pixels beyond the
    border repeat the last one."""
    batch, height, width, _ = images.shape
    x0, y0 = x.floor(), y.floor()
    rows = torch.arange(batch, device=images.device).view(-1, 1, 1)
    columns = [(x0.long() + first + i).clamp(0, width - 1) for i in range(count)]
    lines = []
    for j in range(count):
        line = (y0.long() + first + j).clamp(0, height - 1)
        pixels = [images[rows, line, column].double() for column in columns]
        lines.append(joined(*pixels, (x - x0)[..., None]))
    return joined(*lines, (y - y0)[..., None]).clamp(0, 255).to(torch.uint8)
