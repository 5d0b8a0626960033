"""Augmentations on uint8 batches, on the device, that treat every field of a sample according to its kind.

A transform draws its numbers from `Draws`, so that they depend on the sample's place in the run alone. Flips and
shifts move images, label maps, masks and points together; colour changes touch images only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.errors import ConfigError
from facex.methods.batch import Batch, Field

_SPATIAL = ("image", "label_map", "mask")


class Transform(ABC):
    """Base of all transforms: a batch in, a batch out; the input's tensors are left as they are."""

    on_host = False
    """It computes on the CPU whatever the device: where such transforms come first, the loader's reading thread runs them
    before the batch moves to the device."""

    @abstractmethod
    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Transform one micro-batch on its device."""

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items())
        return f"{type(self).__name__}({options})"


def image_width(batch: Batch) -> int:
    """Width in pixels of the batch's images (or of its label maps or masks); ConfigError where there are none."""
    for name, kind in batch.kinds.items():
        if kind.kind in _SPATIAL and name in batch:
            return int(batch[name].shape[2])
    raise ConfigError(
        f"points cannot be moved without an image, label map or mask beside them (fields: {list(batch.fields)})"
    )


def _rows(choice: Tensor, like: Tensor) -> Tensor:
    """`choice` [b] shaped so that it broadcasts over `like` [b, ...]."""
    return choice.view(-1, *([1] * (like.ndim - 1)))


def exchange_labels(maps: Tensor, swaps: tuple[tuple[int, int], ...]) -> Tensor:
    """Exchange the label values of each pair in uint8 label maps."""
    table = torch.arange(256, device=maps.device)
    for a, b in swaps:
        table[a], table[b] = b, a
    return table.to(maps.dtype)[maps.long()] if swaps else maps


def exchange_points(points: Tensor, swaps: tuple[tuple[int, int], ...]) -> Tensor:
    """Exchange the points of each pair; `points` [b, n, 2]."""
    order = list(range(points.shape[1]))
    for a, b in swaps:
        order[a], order[b] = b, a
    return points[:, order]


def mirror(values: Tensor, field: Field, width: int) -> Tensor:
    """A whole field mirrored left to right, its left/right pairs exchanged; `width` in pixels is used for points."""
    if field.kind == "points":
        flipped = torch.stack([width - 1 - values[..., 0], values[..., 1]], -1)
        return exchange_points(flipped, field.swaps)
    if field.kind == "label_map":
        return exchange_labels(values.flip(2), field.swaps)
    return values.flip(2) if field.kind in _SPATIAL else values


class HorizontalFlip(Transform):
    """Mirror a sample left to right with probability `p`: images, label maps, masks and points, with the pairs that
    exchange (left and right eye). x becomes width - 1 - x."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"HorizontalFlip: p={p} is no probability")
        self.p = p

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        chosen = draws.uniform("flip") < self.p
        fields = {}
        for name, kind in batch.kinds.items():
            if name in batch and kind.kind in (*_SPATIAL, "points"):
                width = image_width(batch) if kind.kind == "points" else 0
                values = batch[name]
                fields[name] = self._choose(values, kind, width, chosen)
        return batch.with_fields(**fields)

    @staticmethod
    def _choose(values: Tensor, kind: Field, width: int, chosen: Tensor) -> Tensor:
        if values.device.type != "cpu":  # choosing rows would wait for the device
            return torch.where(_rows(chosen, values), mirror(values, kind, width), values)
        out = values.clone()
        out[chosen] = mirror(values[chosen], kind, width)
        return out


class RandomShift(Transform):
    """Move a sample by a whole number of pixels, up to `max_pixels` each way in x and y.

    Images and label maps repeat their edge pixels (`fill="edge"`) or become 0 there (`fill="black"`); masks become 0.
    Points move along, and may leave the picture.
    """

    def __init__(self, max_pixels: int = 4, fill: str = "edge") -> None:
        if max_pixels < 0 or fill not in ("edge", "black"):
            raise ConfigError(
                f"RandomShift: max_pixels={max_pixels} must not be negative, fill={fill!r} is edge or black"
            )
        self.max_pixels = max_pixels
        self.fill = fill

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        offset = draws.integers("offset", -self.max_pixels, self.max_pixels + 1, 2)  # [b, 2]: x, y
        fields = {}
        for name, kind in batch.kinds.items():
            if name not in batch:
                continue
            if kind.kind == "points":
                fields[name] = batch[name] + offset[:, None, :].to(batch[name].dtype)
            elif kind.kind in _SPATIAL:
                black = self.fill == "black" or kind.kind == "mask"
                fields[name] = self._shift(batch[name], offset, black)
        return batch.with_fields(**fields)

    @staticmethod
    def _shift(values: Tensor, offset: Tensor, black: bool) -> Tensor:
        height, width = values.shape[1:3]
        xs = torch.arange(width, device=values.device)[None] - offset[:, :1]
        ys = torch.arange(height, device=values.device)[None] - offset[:, 1:]
        rows = torch.arange(len(values), device=values.device)[:, None, None]
        moved = values[rows, ys.clamp(0, height - 1)[:, :, None], xs.clamp(0, width - 1)[:, None, :]]
        if black:
            inside = ((ys >= 0) & (ys < height))[:, :, None] & ((xs >= 0) & (xs < width))[:, None, :]
            moved = moved * inside.view(*inside.shape, *([1] * (values.ndim - 3)))
        return moved


class ColorJitter(Transform):
    """Scale brightness, contrast and saturation of an image, in this order, each by its own factor U(1 - x, 1 + x).

    Contrast moves pixels from the image's mean grey value, saturation from their own grey value (grey = 0.299 R +
    0.587 G + 0.114 B). Values are rounded and cut to 0..255 at the end, once.
    """

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> None:
        if not all(0 <= x <= 1 for x in (brightness, contrast, saturation)):
            raise ConfigError("ColorJitter: brightness, contrast and saturation lie in 0..1")
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        spread = torch.tensor([self.brightness, self.contrast, self.saturation], device=batch.position.device)
        factors = 1 + (2 * draws.uniform("factors", 3) - 1) * spread
        fields = {
            name: self._jitter(batch[name], factors, batch.color)
            for name, kind in batch.kinds.items()
            if kind.kind == "image" and name in batch
        }
        return batch.with_fields(**fields)

    @staticmethod
    def _jitter(images: Tensor, factors: Tensor, color: str) -> Tensor:
        # The three steps together are one affine map of the colours of each image:
        #   s c b x + (1 - s) c b grey(x) + (1 - c) b mean(grey)
        weights = [0.299, 0.587, 0.114] if color == "rgb" else [0.114, 0.587, 0.299]
        grey = torch.tensor(weights, device=images.device)
        b, c, s = factors.unbind(1)
        x = images.flatten(1, 2).float()  # [b, pixels, 3]
        matrix = (s * c * b).view(-1, 1, 1) * torch.eye(3, device=x.device)
        matrix = matrix + ((1 - s) * c * b).view(-1, 1, 1) * grey.view(1, 3, 1)
        offset = ((1 - c) * b * (x.mean(1) @ grey)).view(-1, 1, 1)
        out = torch.baddbmm(offset.expand(-1, 1, 3), x, matrix)
        return out.round_().clamp_(0, 255).to(images.dtype).view_as(images)


class RandomErasing(Transform):
    """With probability `p` paint a rectangle of the image in mid grey (127): its area is a share U(0.02, `area`) of
    the image, its ratio of height to width log-uniform in 0.3..3.3. Labels, masks and points stay."""

    def __init__(self, p: float = 0.5, area: float = 0.2) -> None:
        if not 0 <= p <= 1 or not 0.02 <= area <= 1:
            raise ConfigError(f"RandomErasing: p={p} lies in 0..1, area={area} in 0.02..1")
        self.p, self.area = p, area

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        chosen, share, ratio, at_y, at_x = draws.uniform("erase", 5).unbind(1)
        size = 0.02 + share * (self.area - 0.02)
        ratio = 0.3 * (3.3 / 0.3) ** ratio
        high, wide = (size * ratio).sqrt().clamp(max=1), (size / ratio).sqrt().clamp(max=1)
        high = torch.where(chosen < self.p, high, torch.zeros_like(high))
        fields = {}
        for name, kind in batch.kinds.items():
            if kind.kind == "image" and name in batch:
                rows = self._span(batch[name].shape[1], at_y * (1 - high), high)
                columns = self._span(batch[name].shape[2], at_x * (1 - wide), wide)
                hole = (rows[:, :, None] & columns[:, None, :]).unsqueeze(-1)
                fields[name] = batch[name].masked_fill(hole, 127)
        return batch.with_fields(**fields)

    @staticmethod
    def _span(pixels: int, start: Tensor, length: Tensor) -> Tensor:
        """bool [b, pixels]: pixel centres inside start..start+length, both as shares of the side."""
        centre = (torch.arange(pixels, device=start.device) + 0.5)[None] / pixels
        return (centre >= start[:, None]) & (centre < (start + length)[:, None])
