"""PIL's GaussianBlur: three box blurs a direction, whose fractional radius gives the variance, in integer arithmetic.

Source: Pillow src/libImaging/BoxBlur.c.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PASSES = 3


def gaussian_blur(images: Tensor, radius: Tensor, largest: float | None = None) -> Tensor:
    """uint8 [B, H, W, 3] blurred, each picture with its standard deviation `radius` [B] in pixels (0: as it is).
    `largest`: none of them is above this; then nobody waits for the device to tell."""
    reach, inner, edge = box_weights(radius)
    most = int(reach.max() if largest is None else box_weights(torch.tensor([largest]))[0]) + 1
    x = images.double()  # holds every sum of bytes times 24-bit weights exactly
    weights = [torch.where(reach >= k, inner, torch.where(reach == k - 1, edge, 0)) for k in range(most + 1)]
    weights = [w.double().view(-1, 1, 1, 1) for w in weights]
    for axis in (2, 1):
        for _ in range(PASSES):
            x = _box(x, axis, weights)
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


def _box(x: Tensor, axis: int, weights: Sequence[Tensor]) -> Tensor:
    """One pass along an axis: `weights[k]` for the pixels k before and after; pixels beyond the border repeat the last
    one."""
    size, most = x.shape[axis], len(weights) - 1
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
    wide = torch.cat([*[first] * most, x, *[last] * most], axis)
    total = x * weights[0]
    for k in range(1, most + 1):
        for step in (-k, k):
            total.addcmul_(wide.narrow(axis, most + step, size), weights[k])
    return (total + (1 << 23)).mul_(2.0**-24).floor_()
