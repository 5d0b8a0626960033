"""A Gaussian bump at a random place: MSML's map of light, and of the texture it adds to masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facex.errors import ConfigError

METRICS = ("Euclidean", "Manhattan")


def gauss_map(
    rng: np.random.RandomState,
    box: tuple[int, int, int, int],
    center_x: Sequence[float] = (1, 56, 111),
    center_y: Sequence[float] = (1, 56, 111),
    radius: float = -1,
    metric: str = "Euclidean",
) -> np.ndarray:
    """exp(-d^2 / (2 radius^2)) over `box` (left, top, right, bottom): float64 [bottom - top, right - left], 0..1.

    The centre is one of `center_x` and one of `center_y`, or anywhere in the box where both are empty. It is drawn in
    the picture's coordinates while d counts from the box's corner, and distances along an axis lose their fraction: so
    does MSML. A negative `radius` is drawn from U(int(e / 1.5), int(1.5 e)), e the longer side. Draws: x, y, radius.
    Raises ConfigError for an empty box, an unknown metric, or one empty list of centres.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0 or metric not in METRICS or bool(len(center_x)) != bool(len(center_y)):
        raise ConfigError(
            f"gauss_map: box {box} must not be empty, metric {metric!r} is one of {', '.join(METRICS)}, "
            "and center_x and center_y are both lists or both empty"
        )
    if len(center_x):
        cx = center_x[rng.randint(0, len(center_x))]
        cy = center_y[rng.randint(0, len(center_y))]
    else:
        cx = left + width * rng.random_sample()
        cy = top + height * rng.random_sample()
    if radius < 0:
        longer = max(width, height)
        radius = rng.uniform(int(longer / 1.5), int(1.5 * longer))
    dx = (np.arange(width) - cx).astype(np.int16).astype(np.float64)[None]
    dy = (np.arange(height) - cy).astype(np.int16).astype(np.float64)[:, None]
    squared = dx**2 + dy**2 if metric == "Euclidean" else (np.abs(dx) + np.abs(dy)) ** 2
    return np.exp(-0.5 * squared / radius**2)
