"""Pictures for TensorBoard: what the network sees, where occluders are, where it believes them to be."""

from __future__ import annotations

import torch
from torch import Tensor

from facex.methods import InputSpec

TRUE, PREDICTED = (255, 196, 0), (224, 32, 64)  # RGB


def overlays(images: Tensor, occlusion: Tensor, segmentation: Tensor, input: InputSpec) -> Tensor:
    """Input, true mask, predicted mask side by side: uint8 [N, H, 3 W, 3] RGB.

    images: network input float32 [N, C, H, W]; occlusion uint8 [N, H, W], 255 = occluded; segmentation: logits [N, 2, H, W],
    channel 0 = occluded.
    """
    count = images.shape[1]
    mean, std = (images.new_tensor(v[:count]).view(1, -1, 1, 1) for v in (input.mean, input.std))
    faces = (images * std + mean).clamp(0, 255).expand(-1, 3, -1, -1)
    faces = faces.flip(1) if input.color == "bgr" else faces
    predicted = segmentation[:, 0] > segmentation[:, 1]
    shown = [faces, tint(faces, occlusion > 127, TRUE), tint(faces, predicted, PREDICTED)]
    return torch.cat(shown, 3).permute(0, 2, 3, 1).round().to(torch.uint8)


def tint(faces: Tensor, where: Tensor, color: tuple[int, int, int]) -> Tensor:
    """Faces float32 [N, 3, H, W] half covered with `color` where the mask bool [N, H, W] says so."""
    paint = faces.new_tensor(color).view(1, 3, 1, 1)
    return torch.where(where[:, None], (faces + paint) / 2, faces)
