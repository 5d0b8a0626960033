"""Random numbers keyed by what they are for: the same whatever is drawn before, after, or on another worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Streams: one for each thing that can be chosen independently of the others.
IDENTITY, POSE, EXPRESSION, LIGHT, SCENE, OCCLUDER, CAMERA, HAIR, JITTER, PAIRS = range(10)


class Draws:
    """A generator for one key `(seed, stream, identity, index)` with the few distributions that faces need."""

    def __init__(self, *key: int) -> None:
        a, b, c, d = (*(k & 0xFFFFFFFF for k in key), 0, 0, 0, 0)[:4]
        self.rng = np.random.Generator(np.random.Philox(key=(a << 32 | c) << 64 | b << 32 | d))

    def normal(self, mean: float = 0.0, deviation: float = 1.0, limit: float = 2.2) -> float:
        """Normal, clipped at `limit` deviations: no face is drawn so far out that it looks broken."""
        value = float(self.rng.standard_normal())
        return mean + deviation * min(max(value, -limit), limit)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * float(self.rng.random())

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return float(self.rng.random()) < probability

    def choice(self, options: Sequence[Any], weights: Sequence[float] | None = None) -> Any:
        """One of `options`, with relative `weights` when given."""
        if weights is None:
            return options[int(self.rng.random() * len(options))]
        left = float(self.rng.random()) * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            left -= weight
            if left < 0.0:
                return option
        return options[-1]

    def seed(self) -> int:
        """A number for the textures of the renderer, uint32."""
        return int(self.rng.integers(0, 2**32))


def linear(*srgb: float) -> np.ndarray:
    """sRGB values 0..255 as linear colour 0..1, float32."""
    return (np.asarray(srgb, dtype=np.float32) / np.float32(255.0)) ** np.float32(2.2)
