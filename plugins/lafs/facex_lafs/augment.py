"""The augmentations of LAFS's supervised training as transforms: RandAugment on PIL's arithmetic, then crop, jitter
and erasing.

Source: LAFS (Sun et al., CVPR 2024). Recipes name three stages in `data.transforms`: HorizontalFlip of the core,
RandAugment, CropJitterErase. Pictures become RGB for the changes of colour and are given back in the batch's order.
"""

from __future__ import annotations

import re
from abc import abstractmethod

import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.data.transforms import Transform
from facex.errors import ConfigError
from facex.methods import Batch
from facex_lafs.pictures import affine, color, tensor_color
from facex_lafs.pictures.draws import Jitter, apply_jitter, draw_crops, draw_jitter, replace_rows
from facex_lafs.pictures.resample import resized_crops

# "increasing" forms: the change grows with the magnitude, in either direction
OPS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
ENHANCE = {
    "ColorIncreasing": color.saturation,
    "ContrastIncreasing": color.contrast,
    "BrightnessIncreasing": color.brightness,
    "SharpnessIncreasing": color.sharpness,
}
_LEVEL = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}  # at magnitude 10
_ENHANCE_LEVEL = 0.9


def level(name: str, magnitude: Tensor, sign: Tensor) -> Tensor:
    """The argument of an op at a magnitude (0..10, [B]) and a sign (-1 or 1, [B]): degrees, share, factor or bits."""
    share = magnitude.double() / 10
    if name == "PosterizeIncreasing":
        return 4 - (share * 4).trunc()
    if name in ENHANCE:
        return 1 + sign * share * _ENHANCE_LEVEL
    return sign * share * _LEVEL.get(name, 0.0)


def apply_op(images: Tensor, name: str, argument: Tensor, resample: Tensor) -> Tensor:
    """An op of `OPS` on uint8 [B, H, W, 3] RGB with its arguments [B] and, for geometric ones, PIL's sampling (2
    bilinear, 3 bicubic)."""
    if name in ENHANCE:
        return ENHANCE[name](images, argument)
    if name in GEOMETRIC:
        return affine.transform(images, _matrix(name, argument, images), resample)
    if name == "PosterizeIncreasing":
        return color.posterize(images, argument)
    plain = {"AutoContrast": color.autocontrast, "Equalize": color.equalize, "Invert": color.invert}
    return plain[name](images)


def _matrix(name: str, argument: Tensor, images: Tensor) -> Tensor:
    height, width = images.shape[1:3]
    v = argument.double()
    if name == "Rotate":
        return affine.rotation(v, height, width)
    one, zero = torch.ones_like(v), torch.zeros_like(v)
    rows = {
        "ShearX": (one, v, zero, zero, one, zero),
        "ShearY": (one, zero, zero, v, one, zero),
        "TranslateXRel": (one, zero, v * width, zero, one, zero),
        "TranslateYRel": (one, zero, zero, zero, one, v * height),
    }
    return torch.stack(rows[name], 1)


class RgbTransform(Transform):
    """Base of changes of the image fields that are made in RGB whatever the batch's order."""

    @abstractmethod
    def change(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [B, H, W, 3] RGB, changed."""

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        own, turned = draws.scoped(type(self).__name__), batch.color != "rgb"
        fields = {}
        for name, kind in batch.kinds.items():
            if kind.kind == "image" and name in batch:
                images = batch[name].flip(3) if turned else batch[name]
                changed = self.change(images, own)
                fields[name] = changed.flip(3) if turned else changed
        return batch.with_fields(**fields)


class RandAugment(RgbTransform):
    """`layers` ops drawn with replacement from 13, each applied with probability `p`, in PIL's arithmetic.

    Args:
        magnitude: strength of an op, 0..10.
        deviation: standard deviation of the magnitude from one op to the next.
        layers: ops a picture.
        p: probability of each.
    """

    def __init__(self, magnitude: float = 2.0, deviation: float = 0.5, layers: int = 2, p: float = 0.5) -> None:
        if not (0 <= magnitude <= 10 and deviation >= 0 and layers >= 0 and 0 <= p <= 1):
            raise ConfigError(
                f"RandAugment: magnitude={magnitude} lies in 0..10, p={p} in 0..1, deviation={deviation} and "
                f"layers={layers} are not negative"
            )
        self.magnitude, self.deviation, self.layers, self.p = magnitude, deviation, layers, p

    @classmethod
    def from_string(cls, text: str) -> RandAugment:
        """From timm's form `rand-m2-mstd0.5-inc1`; only increasing ops (inc1) are known."""
        found = re.fullmatch(r"rand-m(\d+(?:\.\d+)?)(?:-n(\d+))?(?:-mstd(\d+(?:\.\d+)?))?-inc1", text)
        if found is None:
            raise ConfigError(f"RandAugment: {text!r} is not understood; expected rand-mM-mstdS-inc1")
        return cls(float(found[1]), float(found[3] or 0), int(found[2] or 2))

    def change(self, images: Tensor, draws: Draws) -> Tensor:
        """See the class."""
        op = draws.integers("op", 0, len(OPS), self.layers)
        chosen, sign, kernel = draws.uniform("choices", 3, self.layers).unbind(1)
        magnitude = (self.magnitude + self.deviation * draws.normal("magnitude", self.layers)).clamp(0, 10)
        sign, resample = torch.where(sign < 0.5, -1.0, 1.0), torch.where(kernel < 0.5, affine.BILINEAR, affine.BICUBIC)
        for layer in range(self.layers):
            before = images
            for number, name in enumerate(OPS):
                rows = (op[:, layer] == number) & (chosen[:, layer] < self.p)
                argument = level(name, magnitude[:, layer], sign[:, layer])
                images = replace_rows(
                    images, rows, lambda x, a, r, n=name: apply_op(x, n, a, r), before, argument, resample[:, layer]
                )
        return images


class CropJitterErase(RgbTransform):
    """A random crop resized to the picture's size, ColorJitter, and a black rectangle, as torchvision does them on
    uint8 tensors.

    Args:
        scale: share of the area that a crop has.
        ratio: its width over its height, log-uniform.
        jitter: spread of brightness, contrast, saturation and hue.
        erase_p: probability of the rectangle.
        erase_scale: share of the area that it has.
        erase_ratio: its height over its width, log-uniform.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        jitter: tuple[float, float, float, float] = (0.1, 0.1, 0.1, 0.1),
        erase_p: float = 0.5,
        erase_scale: tuple[float, float] = (0.02, 0.1),
        erase_ratio: tuple[float, float] = (0.3, 3.3),
    ) -> None:
        self.scale, self.ratio, self.jitter = scale, ratio, jitter
        self.erase_p, self.erase_scale, self.erase_ratio = erase_p, erase_scale, erase_ratio
        if not (0 < scale[0] <= scale[1] <= 1 and 0 < erase_scale[0] <= erase_scale[1] < 1 and 0 <= erase_p <= 1):
            raise ConfigError(
                f"CropJitterErase: scale={scale} and erase_scale={erase_scale} rise within 0..1, erase_p={erase_p} "
                "lies there"
            )

    def change(self, images: Tensor, draws: Draws) -> Tensor:
        """See the class."""
        height, width = images.shape[1:3]
        if height != width:
            raise ConfigError(f"CropJitterErase works on square pictures, these are {width}x{height}")
        crops = draw_crops(draws, "crop", height, width, self.scale, self.ratio)
        jitter, holes = draw_jitter(draws, "jitter", self.jitter), self.draw_holes(draws, height, width)
        return self.apply(images, crops, jitter, holes, height)

    @staticmethod
    def apply(images: Tensor, crops: Tensor, jitter: Jitter, holes: Tensor, size: int) -> Tensor:
        """With given draws: crops and holes int64 [B, 4] = (top, left, height, width), a hole of height 0 is none;
        `size` of the result."""
        x = resized_crops(images, crops, size, "bilinear", "torch")
        x = apply_jitter(x, jitter, tensor_color)
        return x.masked_fill(_rectangles(holes, *x.shape[1:3]).unsqueeze(-1), 0)

    def draw_holes(self, draws: Draws, height: int, width: int) -> Tensor:
        """int64 [B, 4]; a row of height 0 where nothing is erased. The first of ten tries that fits, as torchvision's
        RandomErasing."""
        chosen = draws.uniform("erase", 1)[:, 0] < self.erase_p
        crops = draw_crops(
            draws, "hole", height, width, self.erase_scale, (1 / self.erase_ratio[1], 1 / self.erase_ratio[0])
        )
        return crops * torch.where(chosen, 1, 0)[:, None]


def _rectangles(boxes: Tensor, height: int, width: int) -> Tensor:
    """bool [B, height, width]: inside (top, left, height, width)."""
    top, left, tall, wide = (v[:, None] for v in boxes.unbind(1))
    y, x = torch.arange(height, device=boxes.device)[None], torch.arange(width, device=boxes.device)[None]
    return ((y >= top) & (y < top + tall))[:, :, None] & ((x >= left) & (x < left + wide))[:, None, :]
