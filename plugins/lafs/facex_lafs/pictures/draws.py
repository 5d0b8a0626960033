"""Random numbers of the augmentations, and ColorJitter's four changes in a drawn order.

A source has `uniform(stream, *shape)` and `normal(stream, *shape)`, which give float32 [B, *shape]:
facex.data.draws.Draws, or a method's Context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_ATTEMPTS = 10  # of torchvision's RandomResizedCrop before it takes the middle
JITTER = ("brightness", "contrast", "saturation", "hue")


class Source(Protocol):
    """Where random numbers come from, a row a sample."""

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """In [0, 1)."""
        ...

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal."""
        ...


class Jitter(NamedTuple):
    """Draws of ColorJitter: `order` int64 [B, 4] of 0 brightness, 1 contrast, 2 saturation, 3 hue; `factors` float
    [B, 4] in that numbering."""

    order: Tensor
    factors: Tensor


def draw_jitter(source: Source, stream: str, strengths: Sequence[float]) -> Jitter:
    """Factors U(1 - x, 1 + x) of brightness, contrast and saturation, U(-x, x) of hue, in a random order."""
    spread = 2 * source.uniform(f"{stream}/factors", 4) - 1
    factors = spread * torch.tensor(list(strengths), device=spread.device)
    factors[:, :3] += 1
    return Jitter(source.uniform(f"{stream}/order", 4).argsort(1), factors)


def apply_jitter(images: Tensor, jitter: Jitter, arithmetic: ModuleType) -> Tensor:
    """uint8 [B, H, W, 3] changed in the drawn order by `brightness`, `contrast`, `saturation` and `hue` of a module."""
    for step in range(len(JITTER)):
        code = jitter.order[:, step]
        changed = images
        for number, name in enumerate(JITTER):
            change: Callable[[Tensor, Tensor], Tensor] = getattr(arithmetic, name)
            changed = replace_rows(
                changed, code == number, lambda rows, own, c=change: c(rows, own), images, jitter.factors[:, number]
            )
        images = changed
    return images


def replace_rows(
    into: Tensor, chosen: Tensor, change: Callable[..., Tensor], images: Tensor, *arguments: Tensor
) -> Tensor:
    """`into` with the rows `chosen` (bool [B]) replaced by change(images, *arguments) of these rows."""
    if images.device.type != "cpu":  # choosing rows would wait for the device
        return torch.where(chosen.view(-1, *[1] * (images.ndim - 1)), change(images, *arguments), into)
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        return into
    out = into.clone()
    out[rows] = change(images[rows], *(a[rows] for a in arguments))
    return out


def draw_crops(
    source: Source, stream: str, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """torchvision's RandomResizedCrop: int64 [B, 4] = (top, left, height, width), its area a share U(`scale`) of the
    picture, width over height log-uniform in `ratio`; the first of ten tries that fits, or else the middle."""
    area, shape, y, x = source.uniform(stream, 4, _ATTEMPTS).double().unbind(1)
    area = height * width * (scale[0] + area * (scale[1] - scale[0]))
    low, high = (math.log(r) for r in ratio)
    shape = (low + shape * (high - low)).exp()
    wide, tall = (area * shape).sqrt().round().long(), (area / shape).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    pick = fits.int().argmax(1, keepdim=True)
    wide, tall, y, x = (v.gather(1, pick)[:, 0] for v in (wide, tall, y, x))
    whole_tall, whole_wide = _whole(height, width, ratio)
    found = fits.any(1)
    wide = torch.where(found, wide, torch.full_like(wide, whole_wide))
    tall = torch.where(found, tall, torch.full_like(tall, whole_tall))
    top = torch.where(found, (y * (height - tall + 1)).long(), (height - tall) // 2)
    left = torch.where(found, (x * (width - wide + 1)).long(), (width - wide) // 2)
    return torch.stack([top, left, tall, wide], 1)


def _whole(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width
