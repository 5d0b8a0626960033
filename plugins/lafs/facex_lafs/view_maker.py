"""From a batch of pictures to the views of a pre-training step: crops, landmarks on their clean versions, tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.methods import InputSpec
from facex_lafs.landmark_cnn import COORDINATE_MAX
from facex_lafs.landmark_views import Sampling, draw_index, random_landmarks
from facex_lafs.networks import grid_tokens
from facex_lafs.pictures.draws import Source
from facex_lafs.views import CropSettings, to_network

Views = tuple[list[Tensor], list[Tensor | None]]


@dataclass(frozen=True)
class ViewOptions:
    """The crops of a picture."""

    local_views: int = 8
    """Local views beside the two global ones."""
    global_scale: tuple[float, float] = (0.4, 1.0)
    """Share of the picture's area in a global crop; of every crop in the recipe lafs."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Share of the area in a local crop (recipe dino)."""
    local_size: int = 48
    """Side of a local crop in pixels (recipe dino)."""
    normalise: Literal["half", "imagenet"] | None = None
    """half: x / 127.5 - 1 (lafs); imagenet: by ImageNet's mean and deviation (dino)."""


@dataclass(frozen=True)
class LandmarkOptions:
    """How patches are read around landmarks."""

    count: int = 196
    """Landmarks of a picture."""
    sampled: int = 36
    """Landmarks of a local view."""
    noise_sigma: float = 5.0
    """Deviation in pixels of the noise on every coordinate."""
    replacement: bool = True
    """Draw a local view's landmarks with replacement."""
    positional: Literal["first", "landmark"] = "first"
    """Rows of the position embedding that a local view takes: the first ones (as published), or those of its
    landmarks."""
    random_coordinates: bool = False
    """Places drawn anywhere in the picture instead of landmarks (ablation)."""
    width: float = 1.0
    """Factor on the channels of the landmark network."""
    coordinate_max: float = COORDINATE_MAX
    """Largest coordinate."""


class ViewMaker:
    """Makes views as tokens.

    Args:
        views: crops and their number.
        landmarks: see LandmarkOptions.
        patch_size: side of a patch.
        input: the network's pictures.
        recipe: lafs or dino.
    """

    def __init__(
        self,
        views: ViewOptions,
        landmarks: LandmarkOptions,
        patch_size: int,
        input: InputSpec,
        recipe: Literal["lafs", "dino"],
    ) -> None:
        self.views, self.landmarks, self.recipe, self.patch_size = views, landmarks, recipe, patch_size
        self.sampling = Sampling(patch_size, landmarks.noise_sigma)
        if input.height != input.width:
            raise ConfigError(f"views are square: input is {input.width}x{input.height}")
        self.whole = CropSettings(input.height, views.global_scale)
        local_size, local_scale = (input.height, views.global_scale)
        if recipe == "dino":
            local_size, local_scale = views.local_size, views.local_scale
        self.part = CropSettings(local_size, local_scale)
        self.imagenet = (views.normalise or ("imagenet" if recipe == "dino" else "half")) == "imagenet"

    def check(self, positions: int) -> None:
        """ConfigError where the views need more tokens than the network has positions."""
        v, n = self.views, self.landmarks
        tokens = n.count if self.recipe == "lafs" else (self.whole.size // self.patch_size) ** 2
        if tokens > positions:
            raise ConfigError(
                f"a global view has {tokens} tokens, the network {positions} positions: change num_patches"
            )
        if v.local_views < 0 or not 0 < n.sampled <= n.count:
            raise ConfigError(
                f"views.local_views={v.local_views} must not be negative, landmarks.sampled={n.sampled} lies in "
                f"1..{n.count}"
            )
        if self.recipe == "dino" and v.local_size % self.patch_size:
            raise ConfigError(f"views.local_size={v.local_size} is no multiple of patches of {self.patch_size}")

    @property
    def count(self) -> int:
        """Views of a picture."""
        return 2 + self.views.local_views

    def make(self, images: Tensor, source: Source, network: Callable[..., Any] | None) -> Views:
        """Tokens [b, n, 3 p^2] of each view and their positions (None: the first ones), from uint8 [b, H, W, 3] RGB."""
        clean, augmented = self.crops(images, source)
        if self.recipe == "dino":
            return [grid_tokens(x, self.patch_size) for x in augmented], [None] * self.count
        n = self.landmarks
        noise = source.normal("landmark_noise", self.count, n.count, 2).unbind(1)
        index = self._draw_index(source)
        if n.random_coordinates:
            places = source.uniform("random_landmarks", self.count, n.count, 2).unbind(1)
            found = [random_landmarks(p, n.coordinate_max) for p in places]
            return self.tokens(augmented, found, [None] * self.count, index)
        assert network is not None
        return self.tokens(augmented, network(torch.cat(clean)).float().chunk(self.count), noise, index)

    def crops(self, images: Tensor, source: Source) -> tuple[list[Tensor], list[Tensor]]:
        """The clean and the augmented version of each view as the network reads them, float32 [b, 3, size, size]."""
        clean, augmented = [], []
        for view in range(self.count):
            settings = self.whole if view < 2 else self.part
            draws = settings.draw(source, view, *images.shape[1:3])
            crop = settings.clean(images, draws)
            if self.recipe == "lafs":
                clean.append(to_network(crop, self.imagenet))
            augmented.append(to_network(settings.augmented(crop, draws), self.imagenet))
        return clean, augmented

    def _draw_index(self, source: Source) -> list[Tensor | None]:
        """Which landmarks each view has: all (None) of the global ones."""
        n, local = self.landmarks, self.views.local_views
        width = n.sampled if n.replacement else n.count
        numbers = source.uniform("landmark_index", local, width).unbind(1) if local else ()
        return [None, None, *(draw_index(u, n.count, n.replacement)[:, : n.sampled] for u in numbers)]

    def tokens(
        self,
        augmented: Sequence[Tensor],
        landmarks: Sequence[Tensor],
        noise: Sequence[Tensor | None],
        index: Sequence[Tensor | None],
    ) -> Views:
        """Tokens and positions of views whose draws are given: pictures, landmarks [b, N, 2], noise [b, N, 2] and
        order [b, n] of each."""
        views, positions = [], []
        for image, places, drawn, chosen in zip(augmented, landmarks, noise, index, strict=True):
            at = self.sampling.drawn(self.sampling.perturbed(places, drawn), chosen)
            views.append(self.sampling.tokens(image, at))
            positions.append(chosen if self.landmarks.positional == "landmark" else None)
        return views, positions

    def plain_tokens(self, images: Tensor, network: Callable[..., Any] | None) -> Tensor:
        """Tokens of whole pictures [b, 3, H, W] in [-1, 1], without noise: what the network sees when it is used."""
        if self.recipe == "dino" or network is None:
            return grid_tokens(images, self.patch_size)
        return self.sampling.tokens(images, network(images).float())
