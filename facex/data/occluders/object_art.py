"""Built-in things that people hold before their face: cups, phones, books, balls, microphones, cans, food, blobs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facex.data.occluders.art import Canvas, smooth_noise, smooth_shape, superellipse
from facex.data.occluders.hand_art import hands
from facex.data.occluders.texture_art import color, texture

EACH = 3  # of every kind


def _round(x: np.ndarray, cx: float, half: float) -> np.ndarray:
    """Light on an upright cylinder."""
    t = np.clip((x - cx) / half, -1, 1)
    return (0.45 + 0.65 * np.sqrt(1 - 0.9 * (t + 0.3) ** 2 / 1.7)).astype(np.float32)


def cup(rng: np.random.RandomState) -> np.ndarray:
    """A cup with a handle, or a paper cup with a lid."""
    canvas, half, slant = Canvas(120, 120), rng.uniform(30, 38), rng.uniform(0, 8)
    body = np.array([(55 - half, 22), (55 + half, 22), (55 + half - slant, 112), (55 - half + slant, 112)])
    shade = _round(canvas.x, 55, half)[..., None]
    if rng.random_sample() < 0.6:
        ring = canvas.line(superellipse(55 + half - 2, 62, 18, 24, 2.3), 8, closed=True)
        canvas.over(ring, color(rng) * 0.8)
    canvas.over(canvas.polygon(body), texture(rng, 120, 120) * shade)
    canvas.over(canvas.polygon(superellipse(55, 22, half, 8, 2)), (0.92, 0.92, 0.9))
    canvas.over(canvas.polygon(superellipse(55, 23, half - 4, 5.5, 2)), color(rng, (0.1, 0.5)))
    return canvas.finish()


def phone(rng: np.random.RandomState) -> np.ndarray:
    """The back of a phone, its lenses in a corner."""
    canvas = Canvas(76, 140)
    canvas.over(canvas.polygon(superellipse(38, 70, 36, 68, 9)), color(rng) * 0.5)
    sheen = 1 + 0.25 * np.exp(-(((canvas.x + 0.6 * canvas.y - 60) / 22) ** 2))
    canvas.over(canvas.polygon(superellipse(38, 70, 33.5, 65.5, 9)), color(rng) * sheen[..., None])
    canvas.over(canvas.polygon(superellipse(20, 22, 12, 15, 5)), (0.12, 0.12, 0.13))
    for x, y in ((20, 15), (20, 29))[: rng.randint(1, 3)]:
        canvas.over(canvas.polygon(superellipse(x, y, 5, 5, 2)), (0.3, 0.32, 0.38))
        canvas.over(canvas.polygon(superellipse(x, y, 3, 3, 2)), (0.05, 0.05, 0.08))
    return canvas.finish()


def book(rng: np.random.RandomState) -> np.ndarray:
    """A book's cover with a title, its pages seen from the side."""
    canvas = Canvas(110, 140)
    canvas.over(canvas.polygon(np.array([(8, 8), (106, 5), (106, 134), (8, 137)])), (0.9, 0.88, 0.8))
    canvas.over(canvas.polygon(np.array([(4, 6), (100, 3), (100, 132), (4, 135)])), texture(rng, 140, 110))
    canvas.over(canvas.polygon(np.array([(4, 6), (13, 5.5), (13, 135), (4, 135)])), (0, 0, 0), 0.35)
    ink = color(rng, (0.8, 1.0))
    for row in range(int(rng.randint(1, 4))):
        canvas.over(canvas.line(np.array([(28, 32 + 14 * row), (rng.uniform(60, 90), 32 + 14 * row)]), 6), ink)
    return canvas.finish()


def ball(rng: np.random.RandomState) -> np.ndarray:
    """A lit sphere of some pattern: ball, fruit, balloon."""
    canvas, r = Canvas(110, 110), 52.0
    x, y = (canvas.x - 55) / r, (canvas.y - 55) / r
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    surface = texture(rng, 110, 110, (0.25 * x * (1 - z), 0.25 * y * (1 - z)))
    light = 0.3 + 0.75 * np.clip(-0.4 * x - 0.5 * y + 0.75 * z, 0, 1)
    glint = 0.5 * np.clip(-0.45 * x - 0.5 * y + 0.74 * z, 0, 1) ** 30
    canvas.over(canvas.polygon(superellipse(55, 55, r, r, 2)), surface * light[..., None] + glint[..., None])
    return canvas.finish()


def microphone(rng: np.random.RandomState) -> np.ndarray:
    """A round head of wire mesh on a handle."""
    canvas = Canvas(70, 160)
    grip = np.array([(24, 60), (46, 60), (42, 158), (28, 158)])
    canvas.over(canvas.polygon(grip), color(rng, (0.08, 0.4)) * _round(canvas.x, 35, 12)[..., None])
    x, y = (canvas.x - 35) / 31, (canvas.y - 36) / 33
    mesh = 0.45 + 0.15 * np.sin(2.1 * (canvas.x + canvas.y)) * np.sin(2.1 * (canvas.x - canvas.y))
    light = 0.5 + 0.7 * np.sqrt(np.clip(1 - (x + 0.25) ** 2 - (y + 0.25) ** 2, 0, 1))
    canvas.over(canvas.polygon(superellipse(35, 36, 31, 33, 2.2)), (mesh * light)[..., None] * np.ones(3))
    canvas.over(canvas.polygon(np.array([(5, 40), (65, 40), (64, 46), (6, 46)])), (0.7, 0.7, 0.72))
    return canvas.finish()


def can(rng: np.random.RandomState) -> np.ndarray:
    """A can or a bottle with a label."""
    canvas, bottle = Canvas(64, 140), rng.random_sample() < 0.5
    shade, tint = _round(canvas.x, 32, 28)[..., None], color(rng)
    if bottle:
        canvas.over(canvas.polygon(np.array([(24, 2), (40, 2), (41, 34), (60, 54), (60, 138), (4, 138), (4, 54), (23, 34)])), tint * shade, 0.92)  # fmt: skip
        canvas.over(canvas.polygon(np.array([(23, 2), (41, 2), (41, 14), (23, 14)])), color(rng) * shade)
    else:
        canvas.over(canvas.polygon(superellipse(32, 70, 29, 67, 8)), tint * shade)
        canvas.over(canvas.polygon(superellipse(32, 9, 26, 5, 2)), (0.78, 0.78, 0.8))
    label = np.array([(4, 66), (60, 66), (60, 112), (4, 112)])
    canvas.over(canvas.polygon(label), texture(rng, 140, 64) * shade)
    return canvas.finish()


def ice_cream(rng: np.random.RandomState) -> np.ndarray:
    """Scoops on a cone."""
    canvas = Canvas(80, 150)
    lattice = 0.85 + 0.15 * np.sign(np.sin(0.45 * (canvas.x + canvas.y)) * np.sin(0.45 * (canvas.x - canvas.y)))
    wafer = np.array((0.82, 0.6, 0.34)) * lattice[..., None] * _round(canvas.x, 40, 30)[..., None]
    canvas.over(canvas.polygon(np.array([(12, 72), (68, 72), (40, 149)])), wafer)
    for y in (58, 30)[: rng.randint(1, 3)]:
        bumps = 1 + 0.12 * smooth_noise(rng, 150, 80, 14)
        light = 0.6 + 0.5 * np.sqrt(np.clip(1 - ((canvas.x - 32) / 44) ** 2 - ((canvas.y - y + 8) / 40) ** 2, 0, 1))
        canvas.over(canvas.polygon(superellipse(40, y, 31, 27, 2.2)), color(rng, (0.5, 1)) * (bumps * light)[..., None])
    return canvas.finish()


def blob(rng: np.random.RandomState) -> np.ndarray:
    """A free smooth shape of some stuff."""
    canvas = Canvas(120, 120)
    light = 0.85 + 0.25 * smooth_noise(rng, 120, 120, 3)
    canvas.over(canvas.polygon(smooth_shape(rng, 60, 60, 46)), texture(rng, 120, 120) * light[..., None])
    return canvas.finish()


KINDS: tuple[Callable[[np.random.RandomState], np.ndarray], ...] = (
    cup,
    phone,
    book,
    ball,
    microphone,
    can,
    ice_cream,
    blob,
)


def objects() -> list[np.ndarray]:
    """Three of each kind, and three hands; their edges are hard, as a hard paste needs them."""
    rng = np.random.RandomState(606)
    drawn = [make(rng) for make in KINDS for _ in range(EACH)] + [hand[:170] for hand in hands()[:EACH]]
    for picture in drawn:
        picture[..., 3] = np.where(picture[..., 3] >= 128, 255, 0)
    return [_cut(picture) for picture in drawn]


def _cut(picture: np.ndarray) -> np.ndarray:
    """Without the transparent margin."""
    rows, columns = np.nonzero(picture[..., 3].any(1))[0], np.nonzero(picture[..., 3].any(0))[0]
    return np.ascontiguousarray(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
