"""What an occluder is, and the one that covers nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from facex.errors import DataError

MIN_SIDE = 16  # pixels; the placements make no sense below


def check_image(image: np.ndarray) -> None:
    """DataError unless `image` is uint8 [H, W, 3] or [H, W] with both sides of at least `MIN_SIDE` pixels."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise DataError(f"an occluder covers uint8 pictures [H, W, 3] or [H, W], this is {image.dtype} {image.shape}")
    if min(image.shape[:2]) < MIN_SIDE:
        raise DataError(f"the picture has {image.shape[1]}x{image.shape[0]} pixels; occluders need {MIN_SIDE} a side")


class Occluder(ABC):
    """Something in front of a face. Subclasses keep the order of their draws: it is part of their behaviour."""

    name: ClassVar[str]
    """The name that policies use."""

    def draw(self, image: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """The occluded picture and its mask, both new: uint8 as `image` ([H, W, 3] in any channel order, or grey
        [H, W]) and uint8 [H, W], 255 = occluded, 0 = clean. `rng` is NumPy's legacy generator: its numbers for a seed
        never change. Raises DataError for another kind of picture."""
        image = np.array(image, order="C")
        check_image(image)
        mask = np.zeros(image.shape[:2], np.uint8)
        self.cover(image, mask, rng)
        return image, mask

    @abstractmethod
    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """Occlude `image` in place and set `mask` (uint8 [H, W]) to 255 there, leaving the rest of it as it is."""

    def cover_on(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState, landmarks: np.ndarray | None
    ) -> None:
        """As `cover`, on a face with `landmarks` [68, 2] or [5, 2] where they are known; most occluders ignore them."""
        self.cover(image, mask, rng)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class NoOcclusion(Occluder):
    """Covers nothing and draws nothing."""

    name = "none"

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """Leave both as they are."""


def channels(image: np.ndarray) -> int:
    """3 for colour, 1 for grey."""
    return image.shape[2] if image.ndim == 3 else 1


def random_color(image: np.ndarray, low: int, rng: np.random.RandomState) -> tuple[int, ...]:
    """A colour of the picture, each channel uniform in low..255, drawn one after another."""
    return tuple(int(rng.randint(low, 256)) for _ in range(channels(image)))
