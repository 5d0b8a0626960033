"""How the mask is lit: by a lamp of its own, and as the face beneath it is, whose brightness the picture shows."""

from __future__ import annotations

import numpy as np

_GREY = np.array((0.299, 0.587, 0.114), np.float32)
_NORMAL = 125.0  # mean grey of a well-lit face
_CALM = 0.02  # ridge on the slopes, in squared half pictures


def face_light(image: np.ndarray, points: np.ndarray) -> tuple[float, float, float]:
    """(a, b, c): the brightness a + b x + c y that the picture shows at `points` [n, 2], 1 for a well-lit face.

    A plane through the grey values, its mean softened: a dark skin is no dark light.
    """
    height, width = image.shape[:2]
    x = points[:, 0].astype(np.int64)
    y = points[:, 1].astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x[inside], y[inside]
    everywhere = float(image[::4, ::4].mean())
    if len(x) < 8:
        return (max(everywhere, 1.0) / _NORMAL) ** 0.5, 0.0, 0.0
    pixels = image[y, x]
    grey = pixels.astype(np.float32) if image.ndim == 2 else pixels @ _GREY
    mx, my, mean = float(x.mean()), float(y.mean()), float(grey.mean())
    u, v, rest = (x - mx) * (2 / width), (y - my) * (2 / height), grey - mean
    uu, uv, vv = float(u @ u) / len(x) + _CALM, float(u @ v) / len(x), float(v @ v) / len(x) + _CALM
    ru, rv = float(u @ rest) / len(x), float(v @ rest) / len(x)
    scale = 1 / (max(mean, 1.0) * (uu * vv - uv * uv))
    b, c = (ru * vv - rv * uv) * scale * 2 / width, (rv * uu - ru * uv) * scale * 2 / height
    level = min(max((max(0.5 * (mean + everywhere), 1.0) / _NORMAL) ** 0.6, 0.4), 1.2)
    return level * (1 - b * mx - c * my), level * b, level * c
