"""Faces as an occlusion protocol shows them to a network: mirrored or not, cropped, grey or not, then occluded.

Source: MSML's official `ExtractFeature._load_one_input`: [horizontal flip], CenterCrop, [grey], occlusion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from facex.data.draws import mix64, stream_hash
from facex.data.occluders import Occluder
from facex.errors import DataError

_GREY = np.array([19595, 38470, 7471], np.int64)  # PIL's "L" of RGB: 0.299, 0.587, 0.114 in units of 1/65536, rounded
Generators = Callable[[int], np.random.RandomState]


@dataclass(frozen=True)
class OccludedView:
    """How the pictures of a set are prepared.

    `both` False occludes only the even entries (the left picture of every pair; MSML's "NB", else "BB"). `size`
    (height, width) cuts out the middle, with black around a smaller picture; None leaves the pictures as they are.
    `grey` reads PIL's "L" before the occlusion.
    """

    occluder: Occluder
    both: bool = True
    size: tuple[int, int] | None = None
    grey: bool = False

    def __call__(
        self, images: np.ndarray, generators: Generators, first: int = 0, mirrored: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Views of uint8 `images` [n, H, W, 3] RGB, the entries `first`, `first` + 1, ... of a set.

        Returns (uint8 [n, h, w, 3], or [n, h, w] with `grey`; masks uint8 [n, h, w], 255 = occluded).
        `generators(entry)` gives the generator that an occluded entry draws from, entry by entry. Raises DataError for
        other pictures.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise DataError(f"pictures must be uint8 [n, H, W, 3], not {images.dtype} {list(images.shape)}")
        views = images[:, :, ::-1] if mirrored else images
        if self.size is not None:
            views = center_crop(views, *self.size)
        views = grey(views) if self.grey else views.copy()
        masks = np.zeros(views.shape[:3], np.uint8)
        for i in range(len(views)):
            if self.both or (first + i) % 2 == 0:
                views[i], masks[i] = self.occluder.draw(views[i], generators(first + i))
        return views, masks


def center_crop(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of `images` [n, H, W, C]: [n, height, width, C], black where they are smaller; the odd pixel falls as
    in torchvision's CenterCrop. May share memory with `images`."""
    if min(height, width) < 1:
        raise DataError(f"a crop of {width}x{height} pixels: both must be at least 1")
    missing = [max(want - have, 0) for want, have in zip((height, width), images.shape[1:3], strict=True)]
    if any(missing):
        around = [(gap // 2, (gap + 1) // 2) for gap in missing]
        images = np.pad(images, [(0, 0), *around, (0, 0)])
    top, left = (round((have - want) / 2) for have, want in zip(images.shape[1:3], (height, width), strict=True))
    return images[:, top : top + height, left : left + width]


def grey(images: np.ndarray) -> np.ndarray:
    """PIL's "L" of RGB pictures uint8 [..., 3]: uint8 [...]."""
    return ((images @ _GREY + 0x8000) >> 16).astype(np.uint8)


class KeyedGenerators:
    """NumPy's legacy generator, seeded by (seed, what is drawn, repeat, view) and the entry: the same pictures for any
    batch size, any number of ranks, and every network. The generator of an entry is valid until the next is asked
    for."""

    def __init__(self, seed: int, what: str, repeat: int, mirrored: bool) -> None:
        self._key = mix64(mix64(mix64(seed) + repeat) ^ stream_hash(f"{what}/{'mirrored' if mirrored else 'plain'}"))
        self._state = np.random.RandomState(0)

    def __call__(self, entry: int) -> np.random.RandomState:
        self._state.seed(mix64(self._key + entry) >> 32)
        return self._state
