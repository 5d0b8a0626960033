"""Label maps as pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from facex.synth.preview import COLORS

UNKNOWN = (128, 128, 128)  # a pixel without label, RGB


def colored(maps: Tensor) -> Tensor:
    """Label maps [N, H, W], 0..18 or 255, as pictures uint8 [N, H, W, 3] RGB, one colour a class, grey for 255."""
    palette = torch.tensor(UNKNOWN, dtype=torch.uint8).repeat(256, 1)
    palette[: len(COLORS)] = torch.from_numpy(COLORS)
    return palette.to(maps.device)[maps.long()]
