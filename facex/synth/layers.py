"""What is drawn, back to front: the Python side of `csrc/synth` (material and group numbers are shared with shade.h)."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import chain

import numpy as np

# CelebAMask-HQ classes; "l" is the image's left, as in most tools that read these maps
(BACKGROUND, SKIN, NOSE, GLASSES, L_EYE, R_EYE, L_BROW, R_BROW, L_EAR, R_EAR, MOUTH, U_LIP, L_LIP, HAIR, HAT, EARRING, NECKLACE, NECK, CLOTH) = range(19)  # fmt: skip
CLASS_NAMES = ("background", "skin", "nose", "eyeglasses", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip", "hair", "hat", "earring", "necklace", "neck", "cloth")  # fmt: skip
PARSING_SWAPS = ((L_EYE, R_EYE), (L_BROW, R_BROW), (L_EAR, R_EAR))
KEEP = -1  # a layer that is only appearance: what is underneath keeps its label

# materials
BACKDROP, FLAT, FACE, ON_SKIN, STRANDS, FABRIC, ROUND, EYEBALL = range(8)

# groups that a layer can be restricted to (bits)
G_BACK, G_HAIR, G_BODY, G_SKIN, G_EYE, G_MOUTH, G_FEATURE, G_TOP = (1 << i for i in range(8))


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity (Umeyama, no reflection) that takes `source` [n, 2] to `target` [n, 2], as [2, 3]."""
    a, b = [complex(x, y) for x, y in source.tolist()], [complex(x, y) for x, y in target.tolist()]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    norm = sum(abs(p - mean_a) ** 2 for p in a)
    turn = sum((p - mean_a).conjugate() * (q - mean_b) for p, q in zip(a, b, strict=True)) / norm
    move = mean_b - turn * mean_a
    return np.array([(turn.real, -turn.imag, move.real), (turn.imag, turn.real, move.imag)])


class LayerStack:
    """Polygons with their materials, in the picture plane before alignment; `finish` aligns them all at once."""

    def __init__(self) -> None:
        self._points: list[np.ndarray] = []
        self._rows: list[tuple[float, ...]] = []
        self._splats: list[tuple[float, ...]] = []
        self._spots: list[np.ndarray] = []

    def add(
        self,
        points: np.ndarray,
        label: int,
        material: int,
        rgb: np.ndarray | tuple[float, float, float],
        p: tuple[float, ...] = (),
        group: int = G_TOP,
        allow: int = 0,
        occlusion: int = 0,
    ) -> None:
        """Draw the polygon `points` [n, 2] over what is there; see `Layer` in csrc/synth/raster.h for the fields."""
        self._points.append(points[:, :2])
        head = (label, material, group, allow, occlusion, rgb[0], rgb[1], rgb[2])
        self._rows.append((*head, *p, *((0.0,) * (8 - len(p)))))

    def spot(
        self,
        center: np.ndarray,
        radii: tuple[float, float],
        rgb: tuple[float, float, float],
        angle: float = 0.0,
        target: int = 0,
    ) -> None:
        """A soft elliptic spot. Target 0 multiplies the skin's colour, 1 multiplies the picture, 2 adds to it."""
        self._splats.append((center[0], center[1], max(radii[0], 0.3), max(radii[1], 0.3), angle, *rgb, target))

    def spots(self, centers: np.ndarray, radii: np.ndarray, rgb: np.ndarray) -> None:
        """Round soft spots on the skin: centres [n, 2], radii [n], colours [n, 3]."""
        zero = np.zeros((len(radii), 1))
        self._spots.append(np.concatenate([centers, radii[:, None], radii[:, None], zero, rgb, zero], 1))

    def finish(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points [P, 2], offsets [L + 1], layers [L, 16], splats [S, 9], moved by the similarity `matrix` [2, 3]."""
        points = np.concatenate(self._points) @ matrix[:, :2].T + matrix[:, 2]
        offsets = np.zeros(len(self._points) + 1, np.int32)
        np.cumsum([len(p) for p in self._points], out=offsets[1:])
        rows = np.fromiter(chain.from_iterable(self._rows), np.float64, 16 * len(self._rows)).reshape(-1, 16)
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        kinds = rows[:, 1]
        placed = (kinds == STRANDS) | (kinds == ROUND) | (kinds == EYEBALL)
        rows[placed, 8:10] = rows[placed, 8:10] @ matrix[:, :2].T + matrix[:, 2]
        rows[placed, 10] *= scale
        rows[placed & (kinds != EYEBALL), 11] *= scale
        splats = np.concatenate(
            [
                np.fromiter(chain.from_iterable(self._splats), np.float64, 9 * len(self._splats)).reshape(-1, 9),
                *self._spots,
            ]
        )
        splats[:, :2] = splats[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        splats[:, 2:4] *= scale
        splats[:, 4] += np.arctan2(matrix[1, 0], matrix[0, 0])
        return points.astype(np.float32), offsets, rows.astype(np.float32), splats.astype(np.float32)


@lru_cache(maxsize=64)
def _circle(count: int) -> np.ndarray:
    t = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], 1)


def ellipse(
    center: np.ndarray | tuple[float, float], rx: float, ry: float, count: int = 24, angle: float = 0.0
) -> np.ndarray:
    """Polygon of an ellipse: [count, 2]."""
    c, s = math.cos(angle), math.sin(angle)
    return _circle(count) @ np.array([(c * rx, s * rx), (-s * ry, c * ry)]) + center


def ribbon(curve: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Polygon of a stroke along `curve` [n, 2], `width` across (one number, or one a point)."""
    along = np.empty_like(curve)
    along[1:-1], along[0], along[-1] = curve[2:] - curve[:-2], curve[1] - curve[0], curve[-1] - curve[-2]
    size = np.maximum(np.sqrt((along * along).sum(1)), 1e-6)
    across = along[:, ::-1] * (-1.0, 1.0) * (0.5 * width / size)[:, None]
    return np.concatenate([curve + across, (curve - across)[::-1]])


def ring(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Polygon of what lies between two closed contours (the bridge between them has no area)."""
    return np.concatenate([outer, outer[:1], inner[::-1], inner[-1:]])
