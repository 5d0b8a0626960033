"""A crop of each picture of a batch, resized to one size, as PIL or torchvision does it with antialiasing.

Both passes of a separable resize are matrix products: a row of the result is a fixed blend of the rows of the crop.
PIL rounds the blends to 22 bits and each pass to bytes; in float64 the products are exact, so the bytes are PIL's.
Source: Pillow src/libImaging/Resample.c; torchvision transforms/_functional_tensor.py (float32, rounded once at the
end).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

_BITS = 22  # of PIL's blends
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
Kernel = Literal["bilinear", "bicubic"]


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    a, x = -0.5, x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def blends(start: Tensor, length: Tensor, source: int, target: int, kernel: Kernel, dtype: torch.dtype) -> Tensor:
    """[B, target, source], computed in `dtype`: what each of `target` pixels takes from the pixels
    start..start+length of `source`, an antialiased resize of that piece; rows sum to 1."""
    scale = (length.to(dtype) / target).view(-1, 1, 1)
    widened = scale.clamp(min=1.0)
    support = _SUPPORT[kernel] * widened
    centre = (torch.arange(target, device=start.device, dtype=dtype) + 0.5).view(1, -1, 1) * scale
    at = (torch.arange(source, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)).to(dtype)
    first = (centre - support + 0.5).trunc().clamp(min=0)
    last = torch.minimum((centre + support + 0.5).trunc(), length.view(-1, 1, 1).to(dtype))
    shape = _triangle if kernel == "bilinear" else _cubic
    weights = shape((at - centre + 0.5) * (1 / widened))
    weights = torch.where((at >= first) & (at < last), weights, torch.zeros_like(weights))
    return weights / weights.sum(2, keepdim=True)


def resized_crops(
    images: Tensor, crops: Tensor, size: int, kernel: Kernel, arithmetic: Literal["pil", "torch"]
) -> Tensor:
    """uint8 [B, size, size, 3] from images uint8 [B, H, W, 3] and crops int64 [B, 4] = (top, left, height, width)."""
    batch, height, width, channels = images.shape
    top, left, high, wide = crops.unbind(1)
    dtype = torch.float64 if arithmetic == "pil" else torch.float32
    across = blends(left, wide, width, size, kernel, dtype)
    down = blends(top, high, height, size, kernel, dtype)
    x = images.transpose(1, 2).reshape(batch, width, height * channels).to(dtype)
    x = _blend(across, x, arithmetic).view(batch, size, height, channels)
    x = x.transpose(1, 2).reshape(batch, height, size * channels).to(dtype)
    x = _blend(down, x, arithmetic)
    if arithmetic == "torch":
        x = x.round_().clamp_(0, 255).to(torch.uint8)
    return x.view(batch, size, size, channels)


def _blend(weights: Tensor, x: Tensor, arithmetic: str) -> Tensor:
    """Blends of rows: float32 in torch's arithmetic, bytes in PIL's."""
    if arithmetic == "torch":
        return torch.bmm(weights, x)
    whole = (weights * (1 << _BITS)).add_(weights.sign(), alpha=0.5).trunc_()  # rounded away from zero
    mixed = torch.bmm(whole, x).add_(1 << (_BITS - 1)).mul_(2.0**-_BITS)
    return mixed.clamp_(0, 255).to(torch.uint8)  # cut, which is down: no value is below 0
