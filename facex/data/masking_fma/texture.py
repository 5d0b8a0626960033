"""A mask's picture on a face's texture map, and how FMA-3D varies it. Textures are float [size, size, 3] in 0..1."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np


class Randoms(Protocol):
    """The part of numpy.random.RandomState that is drawn from."""

    def rand(self) -> float:
        """A number in [0, 1)."""
        ...

    def randint(self, high: int) -> int:
        """A whole number in 0..high-1."""
        ...


def masked_texture(
    texture: np.ndarray, template: np.ndarray, alpha: np.ndarray, randoms: Randoms | None = None
) -> np.ndarray:
    """texture * (1 - alpha) + template * alpha, the mask varied first if there is a generator.

    texture, template [size, size, 3]; alpha [size, size] or [size, size, 1], how much the mask covers.
    """
    alpha = alpha.reshape(*alpha.shape[:2])
    if randoms is not None:
        template, alpha = vary(template, alpha, randoms)
    return texture * (1 - alpha[..., None]) + template * alpha[..., None]


def vary(template: np.ndarray, alpha: np.ndarray, randoms: Randoms) -> tuple[np.ndarray, np.ndarray]:
    """Template and alpha as FMA-3D varies them, with its draws in its order: mirror, shrink, erode the edge, darken."""
    if randoms.rand() > 0.5:
        template, alpha = np.ascontiguousarray(template[:, ::-1]), np.ascontiguousarray(alpha[:, ::-1])
    if randoms.rand() > 0.5:
        x, y = int(randoms.randint(5)), int(randoms.randint(5))
        template, alpha = _shrunk(template, x, y), _shrunk(alpha, x, y)
    if randoms.rand() > 0.8:
        alpha = cv2.erode(alpha, np.ones((5, 5), np.uint8), iterations=int(randoms.randint(5)))
    if randoms.rand() > 0.5:
        contrast = 0.3 * randoms.rand() + 0.5
        template = np.clip(template * 255 * contrast, 0, 255) / 255
    return template, alpha


def _shrunk(picture: np.ndarray, x: int, y: int) -> np.ndarray:
    """Smaller by x pixels on the left and right, and by y above and below, on zeros."""
    height, width = picture.shape[:2]
    out = np.zeros_like(picture)
    out[y : height - y, x : width - x] = cv2.resize(picture, (width - 2 * x, height - 2 * y))
    return out
