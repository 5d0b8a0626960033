"""Built-in eyeglasses and sunglasses, 125 pixels wide and about as much covered as photographs of them are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facex.data.occluders.art import Canvas, superellipse
from facex.data.occluders.texture_art import color

WIDTH = 125
_METAL = ((0.75, 0.75, 0.78), (0.78, 0.62, 0.32), (0.35, 0.35, 0.38), (0.72, 0.5, 0.42))
_PLASTIC = ((0.06, 0.06, 0.07), (0.1, 0.08, 0.07), (0.32, 0.19, 0.1), (0.45, 0.1, 0.12), (0.12, 0.18, 0.4))


@dataclass
class Frame:
    """The shape of a pair of glasses, in pixels."""

    height: int
    half_width: float  # of a lens
    half_height: float
    power: float  # 2: round lenses, 6: square ones
    flat: float  # how much the upper edge is flattened, 0..1
    slant: float  # how far the outer side is raised
    rim: float
    color: np.ndarray

    def lens(self, side: int, inset: float = 0.0) -> np.ndarray:
        """Outline [n, 2] of the lens on the picture's left (-1) or right (1)."""
        cx, cy = WIDTH / 2 + side * 29.0, self.height / 2
        points = superellipse(0, 0, self.half_width - inset, self.half_height - inset, self.power)
        x, y = points[:, 0], points[:, 1]
        y = np.where(y < 0, y * (1 - 0.3 * self.flat), y * (1 + 0.12 * self.flat))
        x = x * (1 - 0.12 * self.flat * np.maximum(y, 0) / self.half_height)
        return np.stack([cx + x, cy + y - self.slant * side * x / self.half_width], 1)


def _frame(rng: np.random.RandomState, rim: tuple[float, float]) -> Frame:
    half_height = rng.uniform(13, 25)
    metal = rng.random_sample() < 0.35
    choices = _METAL if metal else _PLASTIC
    tint = np.array(choices[rng.randint(0, len(choices))], np.float32)
    if not metal and rng.random_sample() < 0.2:
        tint = color(rng)
    thick = rng.uniform(rim[0], 0.5 * (rim[0] + rim[1])) if metal else rng.uniform(*rim)
    return Frame(
        height=int(min(max(2 * half_height + 9, 27), 67)),
        half_width=rng.uniform(21.5, 26.5),
        half_height=half_height,
        power=rng.choice((2.0, 2.4, 3.2, 4.5)),
        flat=rng.uniform(0, 1),
        slant=rng.uniform(0, 2.5),
        rim=thick,
        color=tint,
    )


def _bridge(frame: Frame) -> np.ndarray:
    inner = WIDTH / 2 - 29.0 + frame.half_width - 0.4 * frame.rim
    t = np.linspace(-1, 1, 15)
    x = WIDTH / 2 + t * (WIDTH / 2 - inner)
    return np.stack([x, frame.height / 2 - 0.22 * frame.half_height - 3.0 * (1 - t**2)], 1)


def _draw(frame: Frame, canvas: Canvas) -> None:
    """Rims, bridge and hinges."""
    cover = canvas.line(_bridge(frame), max(frame.rim, 2.0))
    for side in (-1, 1):
        cover = np.maximum(cover, canvas.polygon(frame.lens(side)) - canvas.polygon(frame.lens(side, frame.rim)))
        outer = WIDTH / 2 + side * (29.0 + frame.half_width - 1.0)
        y = frame.height / 2 - 0.45 * frame.half_height - frame.slant
        hinge = np.array([(outer, y), (WIDTH / 2 + side * WIDTH / 2, y - 0.5)])
        cover = np.maximum(cover, canvas.line(hinge, max(frame.rim * 1.1, 2.5)))
    gloss = 0.12 * np.exp(-(((canvas.y - 0.3 * frame.height) / 5) ** 2))
    canvas.over(cover, frame.color + gloss[..., None] + 0.03 * np.sin(canvas.x / 7)[..., None])


def eyeglasses() -> list[np.ndarray]:
    """Rims with clear or slightly tinted lenses (alpha up to 60)."""
    rng, out = np.random.RandomState(101), []
    for number in range(20):
        frame = _frame(rng, (2.5, 5.5))
        canvas = Canvas(WIDTH, frame.height)
        if number % 3 == 0:
            tint, alpha = color(rng, (0.3, 0.7)), rng.uniform(20, 60) / 255
            for side in (-1, 1):
                canvas.over(canvas.polygon(frame.lens(side)), tint, alpha)
        _draw(frame, canvas)
        out.append(canvas.finish())
    return out


def _lens_color(canvas: Canvas, frame: Frame, rng: np.random.RandomState) -> np.ndarray:
    """Dark glass, lighter below, or a mirror of sky and ground; with a streak of light. [h, w, 3]"""
    t = np.clip((canvas.y - frame.height / 2) / (2 * frame.half_height) + 0.5, 0, 1)[..., None]
    if rng.random_sample() < 0.7:
        dark = np.array(((0.03, 0.03, 0.04), (0.14, 0.09, 0.05), (0.06, 0.1, 0.08))[rng.randint(0, 3)], np.float32)
        glass = dark + t * rng.uniform(0.0, 0.3) * (0.8 + dark)
    else:
        upper, lower = color(rng, (0.5, 0.9)), color(rng, (0.1, 0.4))
        glass = lower + (upper - lower) * (1 - t) ** 0.7
    away = np.abs(((canvas.x + 0.8 * canvas.y) % 58) - rng.uniform(20, 40)) / 5
    return glass + rng.uniform(0.0, 0.25) * np.exp(-(away**2))[..., None]


def sunglasses() -> list[np.ndarray]:
    """Filled lenses (alpha 200..255), dark or mirrored."""
    rng, out = np.random.RandomState(202), []
    for _ in range(32):
        frame = _frame(rng, (1.5, 5.5))
        frame.half_width = rng.uniform(23.5, 27.0)
        canvas = Canvas(WIDTH, frame.height)
        glass, alpha = _lens_color(canvas, frame, rng), rng.uniform(200, 255) / 255
        for side in (-1, 1):
            canvas.over(canvas.polygon(frame.lens(side, 0.5)), glass, alpha)
        _draw(frame, canvas)
        out.append(canvas.finish())
    return out
