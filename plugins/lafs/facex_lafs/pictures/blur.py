"""PIL's GaussianBlur: three box blurs a direction, whose fractional radius gives the variance, in integer arithmetic.

Source: Pillow src/libImaging/BoxBlur.c.
"""

from __future__ import annotations

import torch
from torch import Tensor

PASSES = 3


def gaussian_blur(images: Tensor, radius: Tensor, largest: float | None = None) -> Tensor:
    """uint8 [B, H, W, 3] blurred, each picture with its standard deviation `radius` [B] in pixels (0: as it is).
    `largest`: none of them is above this; then nobody waits for the device to tell."""
    reach, inner, edge = box_weights(radius)
    most = int(reach.max() if largest is None else box_weights(torch.tensor([largest]))[0]) + 1
    x = images.long()
    for axis in (2, 1):
        for _ in range(PASSES):
            x = _box(x, axis, most, reach, inner, edge)
    return x.to(torch.uint8)


def box_weights(radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(whole radius, weight of the pixels inside, weight of the two at the edge), int64 [B] each, the weights in
    1/2^24."""
    variance = radius.float().square() / PASSES
    length = (12 * variance + 1).sqrt()
    whole = ((length - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1).square()))
    box = whole + part
    reach = box.trunc()
    inner = ((1 << 24) / (box * 2 + 1)).trunc().long()
    edge = ((1 << 24) - (reach.long() * 2 + 1) * inner) // 2
    return reach.long(), inner, edge


def _box(x: Tensor, axis: int, most: int, reach: Tensor, inner: Tensor, edge: Tensor) -> Tensor:
    """One pass along an axis over windows of up to 2 `most` + 1; pixels beyond the border repeat the last one."""
    size = x.shape[axis]
    at = torch.arange(size, device=x.device)
    total = torch.zeros_like(x)
    for step in range(-most, most + 1):
        weight = torch.where(
            reach >= abs(step), inner, torch.where(reach == abs(step) - 1, edge, torch.zeros_like(edge))
        )
        total += weight.view(-1, 1, 1, 1) * x.index_select(axis, (at + step).clamp(0, size - 1))
    return (total + (1 << 23)) >> 24
