"""Small random rotations, scalings and shifts: what an imperfect face alignment does."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from facex.data.draws import Draws
from facex.data.transforms import Transform
from facex.errors import ConfigError
from facex.methods.batch import Batch, Field


class RandomAffine(Transform):
    """Rotate by U(-degrees, degrees) about the centre, scale by U(1 - scale, 1 + scale), shift by U(-pixels, pixels) each way.

    Images are resampled bilinearly and repeat their edge pixels; label maps and masks take the nearest pixel (outside:
    the edge's label, masks 0); points move along, and may leave the picture.
    """

    def __init__(self, degrees: float = 8.0, scale: float = 0.08, pixels: float = 4.0) -> None:
        if degrees < 0 or not 0 <= scale < 1 or pixels < 0:
            raise ConfigError(
                f"RandomAffine: degrees={degrees} and pixels={pixels} must not be negative, scale={scale} lies in 0..1"
            )
        self.degrees, self.scale, self.pixels = degrees, scale, pixels

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        u = 2 * draws.uniform("affine", 4) - 1
        angle, factor = u[:, 0] * math.radians(self.degrees), 1 + u[:, 1] * self.scale
        # The linear part maps places of the output to places of the input, about the centre.
        cos, sin = angle.cos() / factor, angle.sin() / factor
        linear = torch.stack([cos, sin, -sin, cos], 1).view(-1, 2, 2)
        shift = u[:, 2:] * self.pixels
        fields = {}
        size = None
        for name, kind in batch.kinds.items():
            if name in batch and kind.kind in ("image", "label_map", "mask"):
                size = batch[name].shape[1:3]
                fields[name] = _resample(batch[name], kind, linear, shift)
        for name, kind in batch.kinds.items():
            if name in batch and kind.kind == "points":
                if size is None:
                    raise ConfigError("RandomAffine: points cannot be moved without an image beside them")
                fields[name] = _move_points(batch[name], linear, shift, size)
        return batch.with_fields(**fields)


def _centre(size: torch.Size, device: torch.device) -> Tensor:
    height, width = size
    return torch.tensor([(width - 1) / 2, (height - 1) / 2], device=device)


def _move_points(points: Tensor, linear: Tensor, shift: Tensor, size: torch.Size) -> Tensor:
    centre = _centre(size, points.device)
    forward = torch.linalg.inv(linear)
    moved = (points.float() - centre) @ forward.transpose(1, 2)
    return (moved + centre + shift[:, None]).to(points.dtype)


def _resample(values: Tensor, kind: Field, linear: Tensor, shift: Tensor) -> Tensor:
    height, width = values.shape[1:3]
    half = torch.tensor([width / 2, height / 2], device=values.device)
    # affine_grid works in units of half the picture; the linear part needs the aspect ratio, the shift the half sides.
    unit = linear * half.view(1, 1, 2) / half.view(1, 2, 1)
    offset = -(linear @ shift.unsqueeze(2)).squeeze(2) / half
    theta = torch.cat([unit, offset.unsqueeze(2)], 2)
    picture = values.permute(0, 3, 1, 2) if values.ndim == 4 else values.unsqueeze(1)
    grid = F.affine_grid(theta, [len(values), picture.shape[1], height, width], align_corners=False)
    smooth = kind.kind == "image"
    out = F.grid_sample(
        picture.float(),
        grid,
        mode="bilinear" if smooth else "nearest",
        padding_mode="zeros" if kind.kind == "mask" else "border",
        align_corners=False,
    )
    out = out.round_().clamp_(0, 255).to(values.dtype)
    return out.permute(0, 2, 3, 1).contiguous() if values.ndim == 4 else out.squeeze(1)
