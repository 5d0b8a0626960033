"""Pictures with alpha put over a face with a hard edge: glasses, scarves, objects (MSML's training occluders)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np

from facex.data.native import native
from facex.data.occluders.assets import Assets, builtin_assets, check_assets, resize_rgba
from facex.data.occluders.base import Occluder


class Paste(Occluder):
    """Base: one asset, drawn uniformly, resized and placed by the subclass.

    `assets`: RGBA pictures uint8 [h, w, 4] (from `load_folder` or `builtin_assets`), or several lists of them, of which
    one is drawn first; unset: the built-in ones. They are brought to one size once, as MSML does.
    """

    builtin: ClassVar[tuple[str, ...]]  # names of `builtin_assets`
    hidden: ClassVar[int] = 0  # up to this alpha the face shows

    def __init__(self, assets: Assets | Sequence[Assets] | None = None) -> None:
        lists = [builtin_assets(name) for name in self.builtin] if assets is None else check_assets(assets, self.name)
        self.assets = [[self.preload(asset) for asset in each] for each in lists]
        """The assets as they are resized when they are drawn: [list][asset] uint8 RGBA."""

    @abstractmethod
    def preload(self, asset: np.ndarray) -> np.ndarray:
        """The asset at the size from which every drawn size is made."""

    @abstractmethod
    def place(self, height: int, width: int, rng: np.random.RandomState) -> tuple[int, int, int, int]:
        """(w, h, x, y) in a picture of `height` x `width`: size and corner of the asset, in pixels."""

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """See the class."""
        choice = self.assets[rng.randint(0, len(self.assets)) if len(self.assets) > 1 else 0]
        asset = choice[rng.randint(0, len(choice))]
        w, h, x, y = self.place(mask.shape[0], mask.shape[1], rng)
        asset = resize_rgba(asset, w, h)
        if image.ndim == 2:
            asset[..., 0] = cv2.cvtColor(asset, cv2.COLOR_RGBA2GRAY)  # a grey picture takes the first channel
        native().paste_rgba(image, mask, asset, x, y, self.hidden)


class Glasses(Paste):
    """Eyeglasses or sunglasses, 2/3 of the width and 1/3 of the height give or take a tenth, over the eyes.

    Lenses of alpha 1..10 count as occluded although the face shows through them unchanged.
    """

    name = "glasses"
    builtin = ("eyeglasses", "sunglasses")
    hidden = 10

    def preload(self, asset: np.ndarray) -> np.ndarray:
        """80 x 40 pixels."""
        return resize_rgba(asset, 80, 40)

    def place(self, height: int, width: int, rng: np.random.RandomState) -> tuple[int, int, int, int]:
        """See the class."""
        w = int(width * 80 / 120 * rng.uniform(1 / 1.1, 1.1))
        h = int(height * 40 / 120 * rng.uniform(1 / 1.1, 1.1))
        x = int((0.12 + 0.02 * rng.randint(-5, 6)) * width)
        return max(w, 1), max(h, 1), x, int((0.3 + 0.01 * rng.randint(-5, 6)) * height)


class Scarf(Paste):
    """A scarf over mouth and chin: 82..90 pixels a side whatever the picture's size, cut at the lower edge."""

    name = "scarf"
    builtin = ("scarf",)
    side = 90

    def preload(self, asset: np.ndarray) -> np.ndarray:
        """90 x 90 pixels."""
        return resize_rgba(asset, self.side, self.side)

    def place(self, height: int, width: int, rng: np.random.RandomState) -> tuple[int, int, int, int]:
        """See the class."""
        w, h = (int(self.side * rng.uniform(1 / 1.1, 1)) for _ in range(2))
        x = int((0.1 + 0.01 * rng.randint(-5, 5)) * width)
        return w, h, x, int((0.6 + 0.01 * rng.randint(-5, 5)) * width)


class RealObject(Paste):
    """A thing in front of the face: 55..109 pixels a side, stretched freely, its corner 0.15..0.5 into the picture."""

    name = "object"
    builtin = ("object",)
    side = 55

    def preload(self, asset: np.ndarray) -> np.ndarray:
        """Fitted into 55 x 55 pixels, its proportions kept, transparent around it."""
        h, w = asset.shape[:2]
        ratio = min(self.side / w, self.side / h)
        fitted = resize_rgba(asset, max(int(w * ratio), 1), max(int(h * ratio), 1))
        out = np.zeros((self.side, self.side, 4), np.uint8)
        top, left = (self.side - fitted.shape[0]) // 2, (self.side - fitted.shape[1]) // 2
        out[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
        return out

    def place(self, height: int, width: int, rng: np.random.RandomState) -> tuple[int, int, int, int]:
        """See the class."""
        w, h = (int(self.side * rng.uniform(1, 2)) for _ in range(2))
        x = int(0.01 * rng.randint(15, 51) * width)
        return w, h, x, int(0.01 * rng.randint(15, 51) * height)
