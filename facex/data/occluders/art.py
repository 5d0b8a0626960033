"""A small canvas for drawing assets: smooth-edged shapes put over each other, RGBA out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Color = Sequence[float] | np.ndarray  # RGB 0..1: one colour [3] or a picture [h, w, 3]
_FINE = 4  # samples a pixel and direction


class Canvas:
    """A transparent picture of `width` x `height` pixels. Coordinates are pixels, their centres at halves."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._pixels = np.zeros((height, width, 4), np.float32)  # colours multiplied by alpha
        self.y, self.x = np.mgrid[0.5:height, 0.5:width].astype(np.float32)
        """Coordinates of every pixel [h, w]."""

    def _sampled(self) -> np.ndarray:
        return np.zeros((self.height * _FINE, self.width * _FINE), np.uint8)

    def _coverage(self, samples: np.ndarray) -> np.ndarray:
        return cv2.resize(samples, (self.width, self.height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    def polygon(self, points: np.ndarray) -> np.ndarray:
        """Coverage 0..1 [h, w] of the closed polygon `points` [n, 2]."""
        samples = self._sampled()
        cv2.fillPoly(samples, [np.round(np.asarray(points) * _FINE - 0.5).astype(np.int32)], 255)
        return self._coverage(samples)

    def line(self, points: np.ndarray, width: float, closed: bool = False) -> np.ndarray:
        """Coverage of a line of `width` pixels through `points` [n, 2]."""
        samples = self._sampled()
        path = np.round(np.asarray(points) * _FINE - 0.5).astype(np.int32)
        cv2.polylines(samples, [path], closed, 255, max(1, round(width * _FINE)))
        return self._coverage(samples)

    def over(self, coverage: np.ndarray, color: Color, alpha: float | np.ndarray = 1.0) -> None:
        """Put `color` over what is there, as far as `coverage` [h, w] times `alpha` says."""
        a = (coverage * alpha)[..., None].astype(np.float32)
        self._pixels *= 1 - a
        self._pixels[..., :3] += a * np.clip(np.asarray(color, np.float32), 0, 1)
        self._pixels[..., 3:] += a

    def shade(self, factor: np.ndarray) -> None:
        """Multiply the colours by `factor` [h, w]."""
        self._pixels[..., :3] = np.minimum(self._pixels[..., :3] * factor[..., None], self._pixels[..., 3:])

    def finish(self) -> np.ndarray:
        """uint8 RGBA [h, w, 4], colours not multiplied by alpha."""
        alpha = self._pixels[..., 3:]
        colors = self._pixels[..., :3] / np.maximum(alpha, 1e-6)
        out = np.concatenate([colors, alpha], -1)
        out[alpha[..., 0] < 2 / 255] = 0
        return np.round(np.clip(out, 0, 1) * 255).astype(np.uint8)


def smooth_noise(rng: np.random.RandomState, height: int, width: int, cells: float) -> np.ndarray:
    """Value noise of mean about 0 within -1..1, float32 [height, width], `cells` bumps along the width."""
    across = max(2, round(cells) + 1)
    down = max(2, round(cells * height / width) + 1)
    grid = rng.uniform(-1, 1, (down, across)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def superellipse(cx: float, cy: float, a: float, b: float, power: float, count: int = 64) -> np.ndarray:
    """Points [count, 2] of |x/a|^power + |y/b|^power = 1 about (cx, cy): 2 is an ellipse, large ones a rectangle."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    x = cx + a * np.sign(c) * np.abs(c) ** (2 / power)
    return np.stack([x, cy + b * np.sign(s) * np.abs(s) ** (2 / power)], 1)


def smooth_shape(rng: np.random.RandomState, cx: float, cy: float, radius: float, wobble: float = 0.35) -> np.ndarray:
    """A random smooth closed outline [96, 2] about (cx, cy): a circle whose radius swings by four harmonics."""
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    r = np.ones_like(t)
    for k in range(2, 6):
        r += wobble / k * rng.uniform(-1, 1) * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
    x, y = r * np.cos(t), aspect * r * np.sin(t)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([cx + radius * (c * x - s * y), cy + radius * (s * x + c * y)], 1)
