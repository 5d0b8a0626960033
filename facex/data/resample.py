"""Resizing as matrices: every row of a resized picture is a fixed blend of rows of the original, whatever the kernel.

So a batch in which each picture is resized to its own size, by its own kernel, and back, is four batched matrix products
on the device. The blends of OpenCV's kernels are read off OpenCV itself, by resizing a unit matrix.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import torch
from torch import Tensor

# The kernels AdaFace draws from, in its order.
CV2_KERNELS: dict[str, int] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    "lanczos4": cv2.INTER_LANCZOS4,
}


def cv2_weights(source: int, target: int, kernel: str) -> np.ndarray:
    """Blend of OpenCV's resize from `source` to `target` pixels: float32 [target, source], rows summing to 1."""
    unit = np.eye(source, dtype=np.float32)
    return cv2.resize(unit, (source, target), interpolation=CV2_KERNELS[kernel])


def triangle_weights(source: int, target: int, kernel: str = "triangle") -> np.ndarray:
    """Linear resize that widens its triangle when it shrinks (anti-aliased, as DALI's and PIL's): float32
    [target, source]."""
    scale = source / target
    centre = (np.arange(target) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(source)[None] - centre[:, None]) / max(scale, 1.0)
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@functools.lru_cache(maxsize=8)
def down_and_up(size: int, kernels: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Blends from `size` to each smaller side and back: float32 [kernels, size + 1, size, size] each.

    `down[k, s]` fills its first s rows (the others are 0), `up[k, s]` reads its first s columns; side 0 is unused.
    """
    down = np.zeros((len(kernels), size + 1, size, size), np.float32)
    up = np.zeros_like(down)
    for k, kernel in enumerate(kernels):
        weights = triangle_weights if kernel == "triangle" else cv2_weights
        for side in range(1, size + 1):
            down[k, side, :side] = weights(size, side, kernel)
            up[k, side, :, :side] = weights(side, size, kernel)
    return torch.from_numpy(down).to(device), torch.from_numpy(up).to(device)


def round_bytes(values: Tensor) -> Tensor:
    """Rounded and cut to 0..255, still float."""
    return values.round().clamp(0, 255)


def there_and_back(images: Tensor, side: Tensor, down: Tensor, up: Tensor, kernels: tuple[str, ...]) -> Tensor:
    """Square `images` uint8 [b, S, S, C] resized to `side` [b] and back by kernels number `down` and `up` [b], as 8-bit
    pictures in between."""
    size = images.shape[1]
    shrink, grow = down_and_up(size, kernels, images.device)
    planes = images.permute(0, 3, 1, 2).float()  # [b, C, S, S]
    for blend in (shrink[down, side], grow[up, side]):
        planes = round_bytes(blend[:, None] @ planes @ blend[:, None].mT)
    return planes.permute(0, 2, 3, 1).to(images.dtype)
