"""Crops of self-supervised pre-training: each with a clean and an augmented version, in PIL's arithmetic, batched on
the device.

Source: LAFS (Sun et al., CVPR 2024), section "landmark-based views"; DINO (Caron et al., ICCV 2021). A crop is cut,
resized and mirrored; its augmented version is then jittered, made grey, blurred and solarised, each with its own
probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facex_lafs.pictures import color
from facex_lafs.pictures.blur import gaussian_blur
from facex_lafs.pictures.draws import Jitter, Source, apply_jitter, draw_crops, draw_jitter, replace_rows
from facex_lafs.pictures.resample import resized_crops

RATIO = (3 / 4, 4 / 3)
JITTER = (0.4, 0.4, 0.2, 0.1)
JITTER_P, GREY_P, SOLARIZE_P = 0.8, 0.2, 0.2
SOLARIZE_THRESHOLD = 128
BLUR = (0.1, 2.0)  # standard deviation in pixels
BLUR_P = (1.0, 0.1, 0.5)  # of the first view, the second, and each local one
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass
class CropDraws:
    """The draws of one view of a batch. Bool and float tensors [B]; `crops` int64 [B, 4]."""

    crops: Tensor
    flip: Tensor
    jittered: Tensor
    jitter: Jitter
    grey: Tensor
    blur: Tensor  # standard deviation, 0: none
    solarize: Tensor


@dataclass(frozen=True)
class CropSettings:
    """How large crops are and what they become.

    Attributes:
        size: side of a crop after the resize.
        scale: share of the picture's area.
    """

    size: int
    scale: tuple[float, float]

    def draw(self, source: Source, view: int, height: int, width: int) -> CropDraws:
        """Fresh draws for view 0, 1 (global) or more (local)."""
        name, kind = f"view{view}", min(view, 2)
        chances = source.uniform(f"{name}/chances", 6)
        flip, jittered, grey, blurred, solarised, radius = chances.unbind(1)
        spread = BLUR[0] + radius * (BLUR[1] - BLUR[0])
        return CropDraws(
            draw_crops(source, f"{name}/crop", height, width, self.scale, RATIO),
            flip < 0.5,
            jittered < JITTER_P,
            draw_jitter(source, name, JITTER),
            grey < GREY_P,
            torch.where(blurred < BLUR_P[kind], spread, torch.zeros_like(spread)),
            (solarised < SOLARIZE_P) & (view == 1),
        )

    def clean(self, images: Tensor, draws: CropDraws) -> Tensor:
        """The crop, uint8 [B, size, size, 3], of pictures uint8 [B, H, W, 3] RGB."""
        crop = resized_crops(images, draws.crops, self.size, "bicubic", "pil")
        return torch.where(draws.flip.view(-1, 1, 1, 1), crop.flip(2), crop)

    def augmented(self, crop: Tensor, draws: CropDraws) -> Tensor:
        """The crop's other version, uint8 [B, size, size, 3]."""
        x = replace_rows(
            crop,
            draws.jittered,
            lambda rows, order, factors: apply_jitter(rows, Jitter(order, factors), color),
            crop,
            *draws.jitter,
        )
        x = replace_rows(x, draws.grey, color.grayscale, x)
        x = replace_rows(x, draws.blur > 0, lambda rows, radius: gaussian_blur(rows, radius, BLUR[1]), x, draws.blur)
        return replace_rows(x, draws.solarize, lambda rows: color.solarize(rows, SOLARIZE_THRESHOLD), x)


def to_network(images: Tensor, imagenet: bool = False) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W]: x / 127.5 - 1, or by ImageNet's mean and deviation."""
    x = images.permute(0, 3, 1, 2).float() / 255
    if not imagenet:
        return ((x - 0.5) / 0.5).contiguous()
    mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in IMAGENET)
    return ((x - mean) / std).contiguous()
