"""ColorJitter as torchvision does it on uint8 tensors: float32 inside, cut towards zero after each change.

Pictures are uint8 [B, H, W, 3] RGB, factors float [B]. Source: torchvision transforms/_functional_tensor.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.float().unbind(-1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue).trunc().unsqueeze(-1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    ratio = factor.float().view(-1, 1, 1, 1)
    return (ratio * images.float() + (1 - ratio) * other).clamp(0, 255).to(torch.uint8)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with black."""
    return _blend(images, torch.zeros_like(images, dtype=torch.float32), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with the picture's mean grey."""
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with the picture's own grey."""
    return _blend(images, _grey(images), factor)


def hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turned by `factor`, a share of the circle, in float32 HSV."""
    h, s, v = _to_hsv(images.float() / 255)
    rgb = _to_rgb(torch.remainder(h + factor.float().view(-1, 1, 1), 1.0), s, v)
    return (rgb * (256 - 1e-3)).to(torch.uint8)


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    red, green, blue = x.unbind(-1)
    high, low = x.amax(-1), x.amin(-1)
    flat, span = high == low, high - low
    one = torch.ones_like(high)
    s = span / torch.where(flat, one, high)
    rc, gc, bc = ((high - c) / torch.where(flat, one, span) for c in (red, green, blue))
    h = torch.where(high == red, bc - gc, torch.where(high == green, 2 + rc - bc, 4 + gc - rc))
    return torch.fmod(h / 6 + 1, 1.0), s, high


def _to_rgb(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    i = (h * 6).floor()
    f = h * 6 - i
    p, q, t = ((v * (1 - part)).clamp(0, 1) for part in (s, s * f, s * (1 - f)))
    places = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)]
    rows = torch.stack([torch.stack(choice, -1) for choice in places])
    index = (i.long() % 6)[None, ..., None].expand(1, *i.shape, 3)
    return rows.gather(0, index)[0]
