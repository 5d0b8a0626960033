"""Random numbers keyed by what they are for: the same whatever is drawn before, after, or on another worker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

# Streams: one for each thing that can be chosen independently of the others.
IDENTITY, POSE, EXPRESSION, LIGHT, SCENE, OCCLUDER, CAMERA, HAIR, JITTER, PAIRS = range(10)


_TO_UNIT = 2.0**-53
_MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    """SplitMix64's finaliser: a bijection of 64-bit numbers that scatters neighbours."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class Draws:
    """A generator for one key `(seed, stream, identity, index)` with the few distributions that faces need.

    Single numbers come from SplitMix64, whose state is one integer: a picture opens eight streams, and eight NumPy
    generators would cost more than the numbers themselves. Arrays come from `rng`, which is made when it is needed.
    """

    def __init__(self, *key: int) -> None:
        state = 0
        for part in key:
            state = _mix((state + 0x9E3779B97F4A7C15 + (part & 0xFFFFFFFF)) & _MASK)
        self._key = self._state = state

    @cached_property
    def rng(self) -> np.random.Generator:
        """The NumPy generator of this key."""
        return np.random.Generator(np.random.Philox(key=self._key))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in [low, high)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return low + (high - low) * ((_mix(self._state) >> 11) * _TO_UNIT)

    def normal(self, mean: float = 0.0, deviation: float = 1.0, limit: float = 2.2) -> float:
        """Normal, clipped at `limit` deviations: no face is drawn so far out that it looks broken."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        value = radius * math.cos(2.0 * math.pi * self.uniform())
        return mean + deviation * min(max(value, -limit), limit)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def choice(self, options: Sequence[Any], weights: Sequence[float] | None = None) -> Any:
        """One of `options`, with relative `weights` when given."""
        if weights is None:
            return options[int(self.uniform() * len(options))]
        left = self.uniform() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            left -= weight
            if left < 0.0:
                return option
        return options[-1]

    def seed(self) -> int:
        """A number for the textures of the renderer, uint32."""
        return int(self.uniform(0.0, 4294967296.0))


def linear(*srgb: float) -> np.ndarray:
    """sRGB values 0..255 as linear colour 0..1, float32."""
    return (np.asarray(srgb, dtype=np.float32) / np.float32(255.0)) ** np.float32(2.2)
