"""What masks are made of: pleats, seams and rims as light and dark, over a colour or a texture."""

from __future__ import annotations

import functools

import numpy as np

from facex.data.masking.templates import MARGIN, STRAP_ROWS, TEMPLATES
from facex.data.occluders.art import smooth_noise
from facex.data.occluders.assets import resize_rgba

WIDTH, HEIGHT = 128, 104  # texels of the cloth with its margin
TEXTURE_HEIGHT = HEIGHT + STRAP_ROWS
# Share and RGB 0..1. Shares: MSML's 3D masks and common sense agree on white and blue.
COLORS = {
    "white": (0.4, (0.90, 0.91, 0.92)),
    "blue": (0.4, (0.56, 0.72, 0.84)),
    "black": (0.1, (0.10, 0.10, 0.11)),
    "green": (0.1, (0.53, 0.72, 0.64)),
}


def _coordinates() -> tuple[np.ndarray, np.ndarray]:
    """(s, t) of every texel: -1..1 across and 0..1 down the cloth, beyond it in the margin."""
    s = ((np.arange(WIDTH) + 0.5) / WIDTH * 2 - 1) * (1 + MARGIN)
    t = (np.arange(HEIGHT) + 0.5) / HEIGHT * (1 + 2 * MARGIN) - MARGIN
    return np.meshgrid(s.astype(np.float32), t.astype(np.float32))


def _line(x: np.ndarray, at: float, width: float) -> np.ndarray:
    return np.exp(-(((x - at) / width) ** 2))


def _pleats(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Three folds across, pressed open a little in the middle, and the embossed wire over the nose."""
    shade = np.ones_like(s)
    for at in (0.32, 0.5, 0.68):
        line = at + 0.05 * (1 - s**2) * (at - 0.45)
        shade -= 0.26 * np.exp(-(((t - line) / 0.016) ** 2)) + 0.10 * np.clip((t - line) / 0.09, 0, 1) * (
            np.clip((t - line) / 0.09, 0, 1) < 1
        )
        shade += 0.05 * np.exp(-(((t - line + 0.03) / 0.02) ** 2))
    shade -= 0.07 * (_line(t, 0.045, 0.01) + _line(t, 0.085, 0.01)) * (np.abs(s) < 0.45)
    return shade - 0.10 * _line(np.abs(s), 0.94, 0.012)


def _seam(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Two panels sewn in the middle, a hem around."""
    shade = 1 - 0.22 * _line(s, 0.0, 0.012) + 0.05 * _line(np.abs(s), 0.04, 0.02)
    hem = np.minimum(np.minimum(t, 1 - t) * 1.4, 1 - np.abs(s))
    return shade - 0.14 * _line(hem, 0.07, 0.012)


def _cup(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """A pressed rim, two grooves, and the strip of metal over the nose."""
    rim = 1 - np.maximum(np.abs(s), np.abs(2 * t - 1))
    shade = 1 - 0.12 * _line(rim, 0.11, 0.025) + 0.04 * _line(rim, 0.05, 0.03)
    for at in (0.38, 0.66):
        shade = shade - 0.10 * _line(t, at + 0.0, 0.018) * (np.abs(s) < 0.75)
    return shade - 0.2 * (_line(t, 0.1, 0.028) * (np.abs(s) < 0.32))


def _fold(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The crease of a folded mask and its welded edges."""
    welds = 0.08 * _line(np.abs(s), 0.9, 0.015) * (np.sin(t * 260) > 0)
    return 1 - 0.18 * _line(s, 0.0, 0.014) + 0.05 * _line(np.abs(s), 0.05, 0.03) - welds - 0.07 * _line(t, 0.09, 0.012)


def _bill(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The crease of a duckbill, its lower half in shadow."""
    below = np.clip((t - 0.5) / 0.04, 0, 1)
    return (
        1 - 0.22 * _line(t, 0.5, 0.014) - 0.10 * below * np.clip(1.1 - t, 0, 1) - 0.10 * _line(np.abs(s), 0.92, 0.015)
    )


_RELIEFS = {"surgical": _pleats, "cloth": _seam, "cup": _cup, "folded": _fold, "duckbill": _bill}


@functools.cache
def relief(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(light factor, alpha) of the cloth of `TEMPLATES[number]`, float32 [HEIGHT, WIDTH] each.

    Beyond the edge alpha falls through a faint shadow (colour factor 0) to nothing.
    """
    s, t = _coordinates()
    rng = np.random.RandomState(900 + number)
    wrinkles = 0.04 * smooth_noise(rng, HEIGHT, WIDTH, 7) + 0.03 * smooth_noise(rng, HEIGHT, WIDTH, 18)
    shade = _RELIEFS[TEMPLATES[number].name](s, t) + wrinkles
    corner = 0.12 if TEMPLATES[number].name == "surgical" else 0.35
    x, y = np.abs(s), np.abs(2 * t - 1)
    # Distance to a rectangle with round corners, in half sides; positive outside.
    qx, qy = x - (1 - corner), y - (1 - corner)
    away = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - corner
    cover = np.clip(0.5 - away / 0.03, 0, 1)
    shadow = 0.22 * np.clip(1 - (away - 0.01) / 0.045, 0, 1) * (away > 0)
    alpha = np.maximum(cover, shadow)
    return (shade * np.where(alpha > 0, cover / np.maximum(alpha, 1e-6), 0)).astype(np.float32), alpha.astype(
        np.float32
    )


def compose(number: int, cloth: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """The texture of a mask: RGBA float32 0..1 [TEXTURE_HEIGHT, WIDTH, 4], the cloth above, its strap below.

    `cloth` RGB 0..1 [3] or [HEIGHT, WIDTH, 3]; `alpha` [HEIGHT, WIDTH] 0..1 makes holes in it.
    """
    shade, cover = relief(number)
    out = np.zeros((TEXTURE_HEIGHT, WIDTH, 4), np.float32)
    out[:HEIGHT, :, :3] = np.asarray(cloth) * shade[..., None]
    out[:HEIGHT, :, 3] = cover if alpha is None else cover * alpha
    color = np.asarray(cloth, np.float32).reshape(-1, 3).mean(0)
    out[HEIGHT:, :, :3] = 0.5 * color + 0.5 * (0.85 if color.mean() > 0.25 else 0.1)
    profile = np.clip(1.6 - np.abs(np.arange(STRAP_ROWS) - (STRAP_ROWS - 1) / 2) / 1.6, 0, 0.9)
    out[HEIGHT:, :, 3] = profile[:, None]
    return np.clip(out, 0, 1)


@functools.lru_cache(maxsize=32)
def plain(number: int, color: str) -> np.ndarray:
    """`compose` of a colour of `COLORS`."""
    return compose(number, np.array(COLORS[color][1], np.float32))


def fit_texture(texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 RGBA as cloth: (RGB 0..1 [HEIGHT, WIDTH, 3], alpha 0..1 [HEIGHT, WIDTH])."""
    fitted = resize_rgba(texture, WIDTH, HEIGHT)
    return fitted[..., :3].astype(np.float32) / 255, fitted[..., 3].astype(np.float32) / 255
