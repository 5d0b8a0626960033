"""The square block of the evaluation protocol."""

from __future__ import annotations

import numpy as np

from facex.data.occluders.base import Occluder
from facex.errors import ConfigError

FILLS = ("black", "white", "gauss")


class Block(Occluder):
    """A square of a share of the picture's area at a uniform place (MSML's test occluder).

    The share is `low`..`high` - 1 per cent, uniform in whole numbers (40, 41: always 40 %). Side and both offsets come
    from the width. `fill`: black, white, or Gaussian noise of deviation 255, wrapped into a byte in colour pictures and
    clipped in grey ones. A share of 0 leaves the picture and draws no place.
    """

    name = "block"

    def __init__(self, low: int = 5, high: int = 41, fill: str = "gauss") -> None:
        if not 0 <= low < high <= 101:
            raise ConfigError(f"Block: low={low}, high={high} must satisfy 0 <= low < high <= 101 (per cent)")
        if fill not in FILLS:
            raise ConfigError(f"Block: fill={fill!r} is one of {', '.join(FILLS)}")
        self.low, self.high, self.fill = low, high, fill

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """See the class."""
        width = mask.shape[1]
        share = rng.randint(self.low, self.high) * 0.01
        side = int((share * width * width) ** 0.5)
        if side == 0:
            return
        content = self._content(image, side, rng)
        x, y = rng.randint(0, width - side + 1), rng.randint(0, width - side + 1)
        h, w = image[y : y + side, x : x + side].shape[:2]
        image[y : y + side, x : x + side] = content[:h, :w] if isinstance(content, np.ndarray) else content
        mask[y : y + side, x : x + side] = 255

    def _content(self, image: np.ndarray, side: int, rng: np.random.RandomState) -> np.ndarray | int:
        if self.fill != "gauss":
            return 0 if self.fill == "black" else 255
        if image.ndim == 2:
            return np.clip(rng.randn(side, side) * 255, 0, 255).astype(np.uint8)
        planes = [rng.randn(side, side) * 255 for _ in range(3)]
        # Through int64, because a cast of negative floats to uint8 differs between processors.
        return np.stack(planes, 2).astype(np.int64).astype(np.uint8)

    def __repr__(self) -> str:
        return f"Block(low={self.low}, high={self.high}, fill={self.fill!r})"
