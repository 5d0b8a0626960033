"""Built-in scarves, 125 pixels wide: cloth wound in two to four turns, the upper edge wavy."""

from __future__ import annotations

import numpy as np

from facex.data.occluders.art import Canvas, smooth_noise
from facex.data.occluders.texture_art import texture

COUNT = 24
WIDTH = 125


def _edge(rng: np.random.RandomState, y: float, sag: float) -> np.ndarray:
    """A wavy line across the picture at height `y`, `sag` lower in the middle: y of every column."""
    t = np.linspace(-1, 1, WIDTH)
    wave = sum(rng.uniform(-1, 1) / k * np.sin(k * np.pi * t + rng.uniform(0, 6.3)) for k in (1, 2, 3, 4))
    return y + sag * (1 - t**2) + 1.6 * wave


def _fold(canvas: Canvas, top: np.ndarray, bottom: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """How light falls on a turn of cloth: a roll from edge to edge with creases along it. [h, w]"""
    t = np.clip((canvas.y - top) / np.maximum(bottom - top, 1), 0, 1)
    roll = 0.62 + 0.55 * np.sin(np.pi * np.clip(t + 0.12, 0, 1)) ** 0.7
    crease = np.zeros_like(t)
    for _ in range(int(rng.randint(2, 5))):
        at, lean, width = rng.uniform(0.1, 0.9), rng.uniform(-0.35, 0.35), rng.uniform(0.03, 0.08)
        away = (t - at - lean * (canvas.x / WIDTH - 0.5)) / width
        crease += rng.uniform(0.1, 0.28) * (0.6 * np.exp(-((away - 1.2) ** 2)) - np.exp(-(away**2)))
    round_neck = 1 - 0.3 * np.abs(canvas.x / WIDTH * 2 - 1) ** 2.5
    return (roll + crease + 0.05 * smooth_noise(rng, t.shape[0], t.shape[1], 6)) * round_neck


def _outline(top: np.ndarray, bottom: np.ndarray, inset: float, height: int) -> np.ndarray:
    """A turn of cloth between the lines `top` and `bottom` (y of every column), narrower above by `inset` a side."""
    columns = np.arange(WIDTH) + 0.5
    side = max(inset * (1 - top[0] / height), 0.0)
    inside = (columns >= side) & (columns <= WIDTH - side)
    upper = np.stack([columns, top], 1)[inside]
    lower = np.stack([columns, np.minimum(bottom, height)], 1)[inside][::-1]
    ends = np.array([(WIDTH - 0.2 * inset, lower[0, 1])]), np.array([(0.2 * inset, lower[-1, 1])])
    return np.concatenate([upper, ends[0], lower[1:-1], ends[1]])


def _scarf(rng: np.random.RandomState) -> np.ndarray:
    height = int(rng.randint(80, 150))
    canvas, turns = Canvas(WIDTH, height), int(rng.randint(2, 5))
    pattern, inset = rng.randint(0, 2**31), rng.uniform(0, 6)
    tops = np.maximum(np.linspace(3, height * 0.85, turns + 1)[:-1] + rng.uniform(-2, 2, turns), 3)
    for k in reversed(range(turns)):  # the upper turns lie over the lower ones
        top = _edge(rng, tops[k], rng.uniform(0, 6))
        bottom = np.full(WIDTH, height + 5.0) if k == turns - 1 else _edge(rng, tops[k + 1] + 10, rng.uniform(0, 8))
        bend = [0.05 * smooth_noise(rng, height, WIDTH, 4) for _ in range(2)]
        cloth = texture(np.random.RandomState(pattern), height, WIDTH, (bend[0], bend[1] - top / WIDTH * 0.8))
        outline = _outline(top, bottom, inset, height)
        canvas.over(canvas.polygon(outline + (0, 3.5)), (0, 0, 0), 0.35)
        canvas.over(canvas.polygon(outline), cloth * _fold(canvas, top, bottom, rng)[..., None])
    picture = canvas.finish()
    picture[..., 3] = np.where(picture[..., 3] > 60, 255, 0)
    return picture


def scarves() -> list[np.ndarray]:
    """Opaque cloth with a hard edge."""
    rng = np.random.RandomState(303)
    return [_scarf(rng) for _ in range(COUNT)]
