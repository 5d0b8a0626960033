"""Pictures for TensorBoard and the report: faces, what a mask leaves of them, which regions it takes away."""

from __future__ import annotations

import torch
from torch import Tensor

from facex.methods import InputSpec

REMOVED = (224, 32, 64)  # RGB


def to_pictures(images: Tensor, input: InputSpec) -> Tensor:
    """Network input float32 [N, 3, H, W] -> uint8 [N, H, W, 3] RGB."""
    mean, std = (images.new_tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (input.mean, input.std))
    pixels = (images.float() * std + mean).round().clamp(0, 255).to(torch.uint8)
    return (pixels.flip(1) if input.color == "bgr" else pixels).permute(0, 2, 3, 1)


def overlays(images: Tensor, regions: Tensor, keep: Tensor, input: InputSpec) -> Tensor:
    """Face, face with removed regions tinted, masked face side by side: uint8 [N, H, 3 W, 3] RGB.

    images: network input [N, 3, H, W]; regions: ids [N, H, W]; keep [N, K], 0 = removed.
    """
    faces = to_pictures(images, input)
    kept = keep.gather(1, regions.long().flatten(1)).view(regions.shape)[..., None] > 0
    paint = torch.tensor(REMOVED, dtype=torch.uint8, device=faces.device)
    tinted = torch.where(kept, faces, faces // 2 + paint // 2)
    grey = torch.full_like(faces, round(input.mean[0]))
    return torch.cat([faces, tinted, torch.where(kept, faces, grey)], 2)
