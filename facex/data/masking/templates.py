"""Shapes of face masks on the canonical face: surgical, cloth, cup (N95), folded (KN95), duckbill; and how they are worn."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from facex.data.masking.canonical import follow

COLUMNS, ROWS = 17, 12
MARGIN = 0.06  # of the half width and height: the mesh goes on beyond the cloth, where the texture is transparent
STRAP_ROWS = 8  # texels below the cloth that hold the strap


@dataclass(frozen=True)
class Template:
    """Where a mask sits (pixels of the canonical face) and how far it stands off."""

    name: str
    top: float = 60.0  # y of the upper edge in the middle
    top_side: float = 66.5  # y of the upper corners
    bottom: float = 111.5
    bottom_side: float = 96.0
    half_widths: tuple[float, float, float] = (31.5, 31.0, 25.5)  # at the upper edge, half way, at the lower edge
    stand_off: float = 0.0  # of a cup, in the middle
    ridge: str = "none"  # a fold that stands out: "none", "vertical", "horizontal"
    straps: tuple[tuple[float, float, float], ...] = ((0.07, 36.0, 51.0), (0.9, 35.5, 67.0))  # (row, x, y) at the ear


TEMPLATES = (
    Template("surgical"),
    Template("cloth", 58.5, 66.0, 111.5, 93.0, (31.0, 31.0, 24.0)),
    Template("cup", 57.5, 69.0, 111.0, 92.0, (28.0, 30.0, 22.0), 5.0, "none", ((0.2, 36.0, 44.0), (0.75, 36.0, 74.0))),
    Template("folded", 58.0, 67.0, 111.5, 92.0, (30.0, 30.0, 22.0), 4.0, "vertical"),
    Template(
        "duckbill",
        58.5,
        67.0,
        110.0,
        95.0,
        (30.0, 30.5, 23.0),
        6.0,
        "horizontal",
        ((0.1, 36.0, 45.0), (0.6, 36.0, 70.0)),
    ),
)
WORN = {"right": (0.0, 0.0), "nose": (18.5, 9.0), "lip": (25.5, 13.0), "chin": (40.0, 26.0)}
"""How a mask is worn: over nose and mouth, below the nose, below the upper lip's edge, under the mouth. The numbers say
how far the upper edge drops, in the middle and at the sides."""


@dataclass(frozen=True)
class Surface:
    """A mask as a mesh that follows a face's landmarks linearly."""

    canonical: np.ndarray  # float64 [V, 3]
    weights: np.ndarray  # float64 [V, 68]
    uv: np.ndarray  # float32 [V, 2]
    triangles: np.ndarray  # int32 [T, 3]


def _row(template: Template, worn: str, s: np.ndarray, t: float) -> np.ndarray:
    """Canonical x, y [n, 2] at the places `s` (-1..1) of the row `t` (0: upper edge, 1: lower edge)."""
    drop, drop_side = WORN[worn]
    top_mid, top_side = template.top + drop, template.top_side + drop_side
    side = np.abs(s)
    top = top_mid + (top_side - top_mid) * side**1.7
    bottom = template.bottom - (template.bottom - template.bottom_side) * side**2.3
    y = top + t * (bottom - top)
    # The half width belongs to a height of the face, however low the mask is worn.
    edge = top_side + t * (template.bottom_side - top_side)
    level = (edge - template.top_side) / (template.bottom_side - template.top_side)
    half = np.interp(level, (-0.2, 0, 0.5, 1, 1.3), (template.half_widths[0] + 1.5, *template.half_widths, 15.0))
    return np.stack([56 + s * half, y], 1)


def _depth(template: Template, xy: np.ndarray, s: np.ndarray, t: float) -> np.ndarray:
    """Depth of the cloth: from the nose's ridge straight to the chin, falling off towards the cheeks."""
    middle = np.interp(xy[:, 1], (55, 60, 66, 72, 80, 90, 100, 108, 115), (18, 21, 24.5, 27, 26, 24, 20.5, 14, 4))
    side = np.minimum(np.abs(s), 1)
    edge = -15.0 + 4.0 * t
    form = (1 - side**2.2) * (0.85 + 0.15 * (1 - side))
    z = edge + (middle - edge) * form
    bulge = np.sin(np.pi * np.clip(0.12 + 0.8 * t, 0, 1)) * np.sqrt(np.clip(1 - side**2, 0, 1))
    z = z + template.stand_off * bulge
    if template.ridge == "vertical":
        z = z + 2.5 * np.exp(-side / 0.12) * np.sin(np.pi * np.clip(0.1 + 0.8 * t, 0, 1))
    if template.ridge == "horizontal":
        z = z + 5.0 * np.exp(-abs(t - 0.5) / 0.13) * (1 - side**2)
    return z


def _cloth(template: Template, worn: str) -> np.ndarray:
    """Vertices [ROWS * COLUMNS, 3] with the margin."""
    s = np.linspace(-1 - MARGIN, 1 + MARGIN, COLUMNS)
    rows = []
    for t in np.linspace(-MARGIN, 1 + MARGIN, ROWS):
        xy = _row(template, worn, s, float(t))
        rows.append(np.column_stack([xy, _depth(template, xy, s, float(t))]))
    return np.concatenate(rows)


def _cloth_triangles() -> np.ndarray:
    corner = (np.arange(ROWS - 1)[:, None] * COLUMNS + np.arange(COLUMNS - 1)).reshape(-1)
    a, b, c, d = corner, corner + 1, corner + COLUMNS + 1, corner + COLUMNS
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def _strap(template: Template, worn: str, side: int, row: float, x: float, y: float) -> np.ndarray:
    """A band of six vertices [6, 3] from the cloth's edge over the cheek to the ear, upper edge first."""
    s = np.array([float(side)])
    start = _row(template, worn, 0.97 * s, row)[0]
    ear = np.array([56 + side * x, y + 0.25 * WORN[worn][1]])
    path = np.stack([start, 0.5 * (start + ear) + (side * 0.8, 0.6), ear])
    across = np.array([0.0, 1.7])
    z = np.array([-12.0, -19.0, -26.0])[:, None]
    return np.concatenate([np.hstack([path - across, z]), np.hstack([path + across, z])])


@functools.lru_cache(maxsize=64)
def surface(number: int, worn: str, texture_height: int) -> Surface:
    """The mesh of `TEMPLATES[number]` worn as `worn`, for textures of `texture_height` texels with the strap's rows."""
    template = TEMPLATES[number]
    cloth_share = 1 - STRAP_ROWS / texture_height
    u, v = np.meshgrid(np.linspace(0, 1, COLUMNS), np.linspace(0, 1, ROWS))
    points, uvs = [_cloth(template, worn)], [np.stack([u.ravel(), v.ravel() * cloth_share], 1)]
    triangles, count = [_cloth_triangles()], COLUMNS * ROWS
    for row, x, y in template.straps:
        for side in (-1, 1):
            points.append(_strap(template, worn, side, row, x, y))
            edge = np.array([cloth_share + 1.5 / texture_height] * 3 + [1 - 1.5 / texture_height] * 3)
            uvs.append(np.stack([np.tile([0.1, 0.5, 0.9], 2), edge], 1))
            faces = np.array([(0, 1, 4), (0, 4, 3), (1, 2, 5), (1, 5, 4)])
            triangles.append(count + (faces if side > 0 else faces[:, ::-1]))
            count += 6
    canonical = np.concatenate(points)
    return Surface(
        canonical,
        follow(canonical),
        np.concatenate(uvs).astype(np.float32),
        np.concatenate(triangles).astype(np.int32),
    )
