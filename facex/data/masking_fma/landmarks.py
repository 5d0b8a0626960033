"""From 106 landmarks to the 68 of iBUG, and the square around a face that FMA-3D looks at."""

from __future__ import annotations

import numpy as np

from facex.errors import DataError

# For each of the 68 points, those of the 106 whose mean it is: the contour, then brows, nose, eyes and mouth.
_CONTOUR: tuple[tuple[int, ...], ...] = (
    *((1, 2), (3, 4), (5, 6), (7,), (9,), (11,), (12, 13), (14,)),
    *((16,), (18,), (19, 20), (21,), (23,), (25,), (26, 27), (28, 29), (30, 31)),
)
_SINGLE = (
    *range(33, 38),
    *range(42, 47),
    *range(51, 55),
    *range(58, 63),
    *(66, 67, 69, 70, 71, 73, 75, 76, 78, 79, 80, 82),
    *range(84, 104),
)
MAP_106_TO_68: tuple[tuple[int, ...], ...] = (*_CONTOUR, *((i,) for i in _SINGLE))


def landmarks_106_to_68(points: np.ndarray) -> np.ndarray:
    """float [106, 2] (or 212 numbers x, y, x, y, ...) -> float64 [68, 2]. Raises DataError for another count."""
    flat = np.asarray(points, np.float64).reshape(-1)
    if flat.size != 212:
        raise DataError(f"{flat.size // 2} landmarks, 106 are wanted")
    all_points = flat.reshape(106, 2)
    return np.array([all_points[list(chosen)].mean(0) for chosen in MAP_106_TO_68])


def face_box(points: np.ndarray, room: float = 1.6) -> tuple[np.ndarray, int]:
    """Centre (x, y) float64 [2] and side in pixels of the square around landmarks [n, 2]: `room` times their extent."""
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, int(room * (high - low).sum() / 2)
