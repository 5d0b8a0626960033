"""The head as a surface in three dimensions, and how a camera sees it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from facex.synth.identity import Identity

ROWS, COLUMNS = 38, 21
_LEVELS = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, ROWS))  # denser at crown and chin, where the contour turns
_ANGLES = np.linspace(-0.5 * np.pi, 0.5 * np.pi, COLUMNS)
PIVOT = np.array([0.0, 60.0, -8.0])  # the head turns about this point


@lru_cache(maxsize=128)
def _spline_matrix(n: int, pieces: int, closed: bool) -> np.ndarray:
    """Weights [m, n] of n points in a Catmull-Rom curve."""
    points = np.eye(n)
    ends = (points[-1:], points[:2]) if closed else (2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1])
    p = np.concatenate([ends[0], points, ends[1]])
    spans = len(p) - 3
    t = (np.arange(pieces) / pieces)[None, :, None]
    a, b, c, e = (p[k : k + spans, None] for k in range(4))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - e + t * (3 * (b - c) + e - a)))
    flat = curve.reshape(-1, n)
    return flat if closed else np.concatenate([flat, points[-1:]])


def spline(points: np.ndarray, pieces: int, closed: bool = False) -> np.ndarray:
    """Catmull-Rom curve through `points` [n, d]; every `pieces`-th point of the result is one of them."""
    return _spline_matrix(len(points), pieces, closed) @ points


class Surface:
    """Depth of the face of one identity (expression neutral) and its grid of vertices."""

    def __init__(self, identity: Identity) -> None:
        self.bumps = identity.bumps
        outline = identity.outline
        mirrored = np.concatenate([outline[1:2] * (-1, 1), outline, outline[-2:-1] * (-1, 1)])
        curve = spline(mirrored, 10)[10:-10]
        ys = np.maximum.accumulate(curve[:, 1])
        self._ys, self._widths = ys, np.maximum(curve[:, 0], 0.0)
        profile = spline(identity.profile, 6)
        self._profile = profile
        self.top, self.bottom = float(outline[0, 1]), float(outline[-1, 1])
        edge = [(self.top, profile[0, 1]), (10, 4), (60, 2), (outline[5, 1], 11), (outline[6, 1], 27)]
        self._edge = np.array([*edge, (self.bottom, np.interp(self.bottom, profile[:, 0], profile[:, 1]) - 2)])
        y = self.top + (self.bottom - self.top) * _LEVELS
        x = self.half_width(y)[:, None] * np.sin(_ANGLES)[None, :]
        grid = np.stack([x, np.repeat(y[:, None], COLUMNS, 1)], -1).reshape(-1, 2)
        self.grid = np.concatenate([grid, self.depth(grid)[:, None]], 1)  # [ROWS * COLUMNS, 3]

    def half_width(self, y: np.ndarray | float) -> np.ndarray:
        """Half width of the head's contour at height y, seen from the front."""
        return np.interp(y, self._ys, self._widths)

    def depth(self, xy: np.ndarray) -> np.ndarray:
        """Depth z [n] of the surface at `xy` [n, 2]; points beyond the contour get the contour's depth."""
        x, y = xy[:, 0], xy[:, 1]
        share = np.minimum(np.abs(x) / np.maximum(self.half_width(y), 1e-3), 1.0)
        front = np.interp(y, self._profile[:, 0], self._profile[:, 1])
        side = np.interp(y, self._edge[:, 0], self._edge[:, 1])
        form = (1.0 - share**2.4) ** 0.62
        b = self.bumps
        u, v = (x[:, None] - b[:, 0]) / b[:, 2], (y[:, None] - b[:, 1]) / b[:, 3]
        relief = np.exp(-0.5 * (u * u + v * v)) @ b[:, 4]
        return side + (front - side) * form + relief * np.sqrt(1.0 - share**4)

    def lift(self, xy: np.ndarray) -> np.ndarray:
        """Points `xy` [n, 2] laid on the surface: [n, 3]."""
        return np.concatenate([xy, self.depth(xy)[:, None]], 1)


@dataclass
class Pose:
    """Turn of the head (radians; yaw > 0 turns it to the image's right, pitch > 0 upwards) and the camera's distance."""

    yaw: float
    pitch: float
    distance: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Head coordinates [..., 3] to the picture plane: x, y before alignment, z towards the camera."""
        cy, sy, cp, sp = np.cos(self.yaw), np.sin(self.yaw), np.cos(self.pitch), np.sin(self.pitch)
        turn = np.array([[cy, 0.0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]])
        seen = (points - PIVOT) @ turn.T
        seen[..., :2] *= self.distance / (self.distance - seen[..., 2:])
        return seen + PIVOT


def silhouette(grid: np.ndarray) -> np.ndarray:
    """Contour of the projected grid [ROWS, COLUMNS, 3]: from the crown down the image's left side to the chin, and up
    the right side: [2 * ROWS, 2]."""
    rows = np.arange(ROWS)
    left = grid[rows, grid[:, :, 0].argmin(1), :2]
    right = grid[rows, grid[:, :, 0].argmax(1), :2]
    # Looking down on a bowed head the crown's rows fold over each other; the contour keeps to the outermost.
    for side in (left, right):
        side[:20, 1] = np.minimum.accumulate(side[:20, 1][::-1])[::-1]
        side[20:, 1] = np.maximum.accumulate(side[20:, 1])
    return np.concatenate([left, right[::-1]])


def resample(curve: np.ndarray, count: int) -> np.ndarray:
    """`count` points on the polyline `curve` [n, 2], equally far apart along it, ends included."""
    steps = np.hypot(*np.diff(curve, axis=0).T)
    lengths = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0.0, lengths[-1], count)
    return np.stack([np.interp(at, lengths, curve[:, 0]), np.interp(at, lengths, curve[:, 1])], 1)
