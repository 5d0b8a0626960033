"""Built-in textures: woven, printed and natural surfaces, for scarves, masks, objects and free shapes."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

from facex.data.occluders.art import smooth_noise

COUNT = 16
SIDE = 128  # pixels of a built-in texture
Paint = Callable[[np.ndarray, np.ndarray, np.random.RandomState], np.ndarray]


def color(rng: np.random.RandomState, value: tuple[float, float] = (0.15, 0.95)) -> np.ndarray:
    """A random RGB colour 0..1 as clothes have it: any hue, often muted."""
    hsv = rng.random_sample(), rng.beta(1.3, 1.6), rng.uniform(*value)
    return np.array(colorsys.hsv_to_rgb(*hsv), np.float32)


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return a + (b - a) * np.clip(share, 0, 1)[..., None]


def _soft_step(x: np.ndarray, softness: float = 0.08) -> np.ndarray:
    return np.clip(0.5 + x / softness, 0, 1)


def _noise(rng: np.random.RandomState, like: np.ndarray, cells: float) -> np.ndarray:
    return smooth_noise(rng, like.shape[0], like.shape[1], cells)


def plain(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """One colour with a little unevenness."""
    return color(rng) * (1 + 0.08 * _noise(rng, u, 5))[..., None]


def stripes(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Bands of two or three colours at a random angle."""
    angle, pitch = rng.choice((0.0, np.pi / 2, rng.uniform(0, np.pi))), rng.uniform(0.08, 0.25)
    along = (np.cos(angle) * u + np.sin(angle) * v) / pitch
    wave = np.abs(along - np.round(along)) * 2
    out = _mix(color(rng), color(rng), _soft_step(wave - rng.uniform(0.3, 0.7)))
    if rng.random_sample() < 0.5:
        out = _mix(out, color(rng), 1 - _soft_step(wave - 0.12))
    return out


def checks(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """A tartan: two sets of bands that mix where they cross, with thin lines between."""
    pitch, width = rng.uniform(0.15, 0.3), rng.uniform(0.35, 0.55)
    ground, band, thin = color(rng), color(rng), color(rng)
    x, y = (np.abs(t / pitch - np.round(t / pitch)) * 2 for t in (u, v))
    out = _mix(ground, band, 0.5 * _soft_step(width - x) + 0.5 * _soft_step(width - y))
    return _mix(out, thin, 0.7 * np.maximum(_soft_step(0.08 - np.abs(x - 0.8)), _soft_step(0.08 - np.abs(y - 0.8))))


def dots(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Round dots, every second row shifted."""
    pitch, radius = rng.uniform(0.1, 0.22), rng.uniform(0.22, 0.36)
    row = np.round(v / pitch)
    x = u / pitch + 0.5 * (row % 2)
    away = np.hypot(x - np.round(x), v / pitch - row)
    return _mix(color(rng), color(rng), _soft_step(radius - away, 0.1))


def patches(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Blots of three colours, as camouflage or marble."""
    coarse, fine = _noise(rng, u, rng.uniform(4, 8)), _noise(rng, u, 12)
    field, soft = coarse + 0.4 * fine, rng.uniform(0.1, 0.8)
    out = _mix(color(rng), color(rng), _soft_step(field, soft))
    return _mix(out, color(rng), _soft_step(np.abs(field) - 0.5, soft))


def flowers(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Printed blossoms of five petals, scattered."""
    out = np.broadcast_to(color(rng), (*u.shape, 3)).copy()
    leaf, heart = color(rng), color(rng)
    for _ in range(int(rng.randint(10, 24))):
        x, y = (u - rng.uniform(0, 1)), (v - rng.uniform(0, 1))
        size, turn = rng.uniform(0.06, 0.13), rng.uniform(0, 2 * np.pi)
        radius = size * (0.75 + 0.25 * np.cos(5 * np.arctan2(y, x) + turn))
        away = np.hypot(x, y)
        out = _mix(out, leaf, _soft_step((radius - away) / size, 0.2))
        out = _mix(out, heart, _soft_step((0.25 * size - away) / size, 0.2))
    return out


PAINTS: tuple[Paint, ...] = (plain, stripes, checks, dots, patches, flowers)


def texture(
    rng: np.random.RandomState, height: int = SIDE, width: int = SIDE, warp: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """A random surface, float32 RGB 0..1 [height, width, 3]; `warp` moves its coordinates (shares of the width)."""
    v, u = np.mgrid[0.5:height, 0.5:width].astype(np.float32) / width
    if warp is not None:
        u, v = u + warp[0], v + warp[1]
    paint = PAINTS[rng.randint(0, len(PAINTS))]
    weave = 1 + 0.05 * rng.randn(height, width)  # threads and grain
    return np.clip(paint(u, v, rng) * weave[..., None], 0, 1).astype(np.float32)


def textures() -> list[np.ndarray]:
    """Opaque square textures."""
    rng = np.random.RandomState(505)
    opaque = np.full((SIDE, SIDE, 1), 255, np.uint8)
    return [np.concatenate([np.round(texture(rng) * 255).astype(np.uint8), opaque], -1) for _ in range(COUNT)]
