"""AdaFace's augmentation of aligned faces: a crop on black, a lower resolution, and changes of light and colour.

Twice: as functions of one picture and given draws, to the bit what AdaFace computes (PIL's 8-bit arithmetic, OpenCV's
resize); and as batched transforms on the device that draw for themselves. AdaFace's recipe applies `CropOnBlack`,
`LowResolution` and `Photometric` in this order with probability 0.2 each, then flips.
Source: AdaFace dataset/augmenter.py (torchvision's RandomResizedCrop and ColorJitter). Label maps, masks and points are
left as they are: none of these moves a pixel.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.data.resample import CV2_KERNELS, there_and_back
from facex.data.transforms import Transform
from facex.errors import ConfigError
from facex.methods.batch import Batch

_GREY_RGB = (19595, 38470, 7471)  # PIL's grey: 0.299, 0.587, 0.114 in units of 1/65536, rounded
_ATTEMPTS = 10  # of torchvision's RandomResizedCrop before it takes the middle
PHOTOMETRIC = ("brightness", "contrast", "saturation")


# -- one picture, given draws -----------------------------------------------------------------------------------------
def crop_on_black(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """`image` [H, W, C] with everything outside the rectangle black; nothing is moved or resized."""
    out = np.zeros_like(image)
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    out[rows, columns] = image[rows, columns]
    return out


def low_resolution(image: np.ndarray, side_ratio: float, down: str = "area", up: str = "cubic") -> np.ndarray:
    """`image` uint8 [H, W, C] shrunk to a square of int(side_ratio * H) pixels and back, by the OpenCV kernels named."""
    for kernel in (down, up):
        if kernel not in CV2_KERNELS:
            raise ConfigError(f"unknown kernel {kernel!r}; there are {', '.join(CV2_KERNELS)}")
    side = int(side_ratio * image.shape[0])
    if side < 1:
        raise ConfigError(f"side_ratio={side_ratio} leaves no pixel of {image.shape[0]}")
    small = cv2.resize(image, (side, side), interpolation=CV2_KERNELS[down])
    return cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=CV2_KERNELS[up])


def photometric(
    image: np.ndarray,
    order: Sequence[int],
    brightness: float,
    contrast: float,
    saturation: float,
    color: str = "rgb",
) -> np.ndarray:
    """Change the light of `image` uint8 [H, W, 3] in PIL's 8-bit arithmetic, one factor after another.

    `order` lists 0 brightness, 1 contrast, 2 saturation; other numbers (torchvision's 3, hue) do nothing. AdaFace
    trains on BGR pictures but lets PIL believe that they are RGB; `color` "rgb" for its pictures does the same.
    """
    x = torch.from_numpy(np.ascontiguousarray(image))[None]
    for code in order:
        if code in (0, 1, 2):
            factor = torch.tensor([(brightness, contrast, saturation)[code]], dtype=torch.float32)
            x = _blend(_degenerate(x, torch.tensor([code]), color), x, factor)
    return x[0].numpy()


def _grey(images: Tensor, color: str) -> Tensor:
    """PIL's 8-bit grey, int32 [b, H, W, 1]."""
    weights = _GREY_RGB if color == "rgb" else _GREY_RGB[::-1]
    red, green, blue = images.int().unbind(-1)
    return ((red * weights[0] + green * weights[1] + blue * weights[2] + 0x8000) >> 16).unsqueeze(-1)


def _degenerate(images: Tensor, code: Tensor, color: str) -> Tensor:
    """What factor 0 would give, by picture: black, its mean grey, or its own grey; int32 [b, H, W, 1]."""
    grey = _grey(images, color)
    mean = (grey.double().mean((1, 2, 3), keepdim=True) + 0.5).int()
    code = code.view(-1, 1, 1, 1)
    return torch.where(code == 2, grey, torch.where(code == 1, mean, torch.zeros_like(mean)))


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """PIL's Image.blend: float32, cut off to 0..255 and towards zero."""
    a = degenerate.float()
    mixed = a + factor.view(-1, 1, 1, 1) * (images.float() - a)
    return mixed.clamp(0, 255).to(torch.uint8)


# -- batches on the device --------------------------------------------------------------------------------------------
class RandomImageChange(Transform):
    """Base: with probability `p` a sample's images (not its labels, masks and points) are replaced by `change`."""

    def __init__(self, p: float) -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"{type(self).__name__}: p={p} is no probability")
        self.p = p

    @abstractmethod
    def change(self, images: Tensor, draws: Draws, color: str) -> Tensor:
        """uint8 [b, H, W, 3] changed, with the numbers of `draws` (one row a picture)."""

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        own = draws.scoped(type(self).__name__)
        chosen = own.uniform("chosen") < self.p
        fields = {
            name: self._apply(batch[name], chosen, own, batch.color)
            for name, kind in batch.kinds.items()
            if kind.kind == "image" and name in batch
        }
        return batch.with_fields(**fields)

    def _apply(self, images: Tensor, chosen: Tensor, draws: Draws, color: str) -> Tensor:
        if images.device.type != "cpu":  # choosing rows would wait for the device
            return torch.where(chosen.view(-1, 1, 1, 1), self.change(images, draws, color), images)
        rows = chosen.nonzero()[:, 0]
        out = images.clone()
        if len(rows):
            few = Draws(draws.seed, draws.batch_number, draws.position[rows], draws.prefix)
            out[rows] = self.change(images[rows], few, color)
        return out


class CropOnBlack(RandomImageChange):
    """Keep a random rectangle and make the rest black: its area a share U(`scale`) of the picture, its ratio of width to
    height log-uniform in `ratio` (torchvision's RandomResizedCrop without the resizing)."""

    def __init__(
        self, p: float = 0.2, scale: tuple[float, float] = (0.2, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ) -> None:
        super().__init__(p)
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ConfigError(f"CropOnBlack: scale={scale} lies in 0..1, ratio={ratio} above 0, both rising")
        self.scale, self.ratio = scale, ratio

    def change(self, images: Tensor, draws: Draws, color: str) -> Tensor:
        top, left, height, width = self.rectangles(draws, *images.shape[1:3])
        rows = _span(images.shape[1], top, height)[:, :, None]
        columns = _span(images.shape[2], left, width)[:, None, :]
        return images * (rows & columns).unsqueeze(-1)

    def rectangles(self, draws: Draws, high: int, wide: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(top, left, height, width), int64 [b] each: the first of ten tries that fits, or else the whole picture as far
        as `ratio` lets it."""
        area, shape, y, x = draws.uniform("crop", 4, _ATTEMPTS).double().unbind(1)
        area = high * wide * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
        low, top_ratio = (math.log(r) for r in self.ratio)
        shape = (low + shape * (top_ratio - low)).exp()
        width, height = (area * shape).sqrt().round().long(), (area / shape).sqrt().round().long()
        fits = (width > 0) & (width <= wide) & (height > 0) & (height <= high)
        pick = fits.int().argmax(1, keepdim=True)
        width, height, y, x = (v.gather(1, pick)[:, 0] for v in (width, height, y, x))
        found = fits.any(1)
        rest_high, rest_wide = self._whole(high, wide)
        height = torch.where(found, height, torch.full_like(height, rest_high))
        width = torch.where(found, width, torch.full_like(width, rest_wide))
        top = torch.where(found, (y * (high - height + 1)).long(), (high - height) // 2)
        left = torch.where(found, (x * (wide - width + 1)).long(), (wide - width) // 2)
        return top, left, height, width

    def _whole(self, high: int, wide: int) -> tuple[int, int]:
        if wide / high < self.ratio[0]:
            return round(wide / self.ratio[0]), wide
        if wide / high > self.ratio[1]:
            return high, round(high * self.ratio[1])
        return high, wide


def _span(pixels: int, start: Tensor, length: Tensor) -> Tensor:
    """bool [b, pixels]: start <= pixel < start + length."""
    at = torch.arange(pixels, device=start.device)[None]
    return (at >= start[:, None]) & (at < (start + length)[:, None])


class LowResolution(RandomImageChange):
    """Shrink a square picture to a side of int(U(`ratio`) * side) pixels and back, each way with an OpenCV kernel drawn
    from nearest, linear, area, cubic and lanczos4. At most 1 to 2 of 255 from OpenCV's own fixed-point arithmetic."""

    KERNELS = tuple(CV2_KERNELS)

    def __init__(self, p: float = 0.2, ratio: tuple[float, float] = (0.2, 1.0)) -> None:
        super().__init__(p)
        if not 0 < ratio[0] <= ratio[1] <= 1:
            raise ConfigError(f"LowResolution: ratio={ratio} lies in 0..1, rising")
        self.ratio = ratio

    def change(self, images: Tensor, draws: Draws, color: str) -> Tensor:
        side, down, up = self.sizes(draws, _side(images, "LowResolution"))
        return there_and_back(images, side, down, up, self.KERNELS)

    def sizes(self, draws: Draws, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(side in pixels, kernel down, kernel up), int64 [b] each."""
        low, high = self.ratio
        side = ((low + draws.uniform("side") * (high - low)) * size).long().clamp(1, size)
        kernels = draws.integers("kernels", 0, len(self.KERNELS), 2)
        return side, kernels[:, 0], kernels[:, 1]


class Photometric(RandomImageChange):
    """Brightness, contrast and saturation in random order, each by a factor U(1 - `strength`, 1 + `strength`), in PIL's
    8-bit arithmetic."""

    def __init__(self, p: float = 0.2, strength: float = 0.5) -> None:
        super().__init__(p)
        if not 0 <= strength <= 1:
            raise ConfigError(f"Photometric: strength={strength} lies in 0..1")
        self.strength = strength

    def change(self, images: Tensor, draws: Draws, color: str) -> Tensor:
        order, factors = self.changes(draws)
        for step in range(len(PHOTOMETRIC)):
            code = order[:, step]
            factor = factors.gather(1, code[:, None])[:, 0]
            images = _blend(_degenerate(images, code, color), images, factor)
        return images

    def changes(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """(order int64 [b, 3] of the changes in PHOTOMETRIC, their factors float32 [b, 3])."""
        order = draws.uniform("order", 3).argsort(1)
        return order, 1 + (2 * draws.uniform("factors", 3) - 1) * self.strength


def _side(images: Tensor, name: str) -> int:
    high, wide = images.shape[1:3]
    if high != wide:
        raise ConfigError(f"{name} works on square pictures, these are {wide}x{high}")
    return int(high)
