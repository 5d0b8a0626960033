"""MSML's training samples one at a time, on the draws of one seeded generator, number by number as the published code.

Training draws keyed numbers instead (`samples.py`, which holds the arithmetic of both); this is the road by which the two
are compared, and by which a published run's samples can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from facex.data.occluders import Ellipse, Glasses, NoOcclusion, Occluder, Polygon, RealObject, Rectangle, Scarf
from facex.errors import ConfigError
from facex_msml.samples import TextureDraws, clean_pixels, grey, light, resize, texture

Policy = Literal["ms1m", "casia"]


class Sample(NamedTuple):
    """img and ori float32 [C, H, W], as the network reads them; mask int32 [H, W], 1 = clean; label."""

    img: Tensor
    mask: Tensor
    ori: Tensor
    label: int


@dataclass(frozen=True)
class Face:
    """One record: picture uint8 [H, W, 3] RGB, label, and its offline-masked twin: picture, mask uint8 [H, W] with 255 =
    clean."""

    image: np.ndarray
    label: int
    masked: np.ndarray
    mask: np.ndarray


def official_occluders(
    glasses: Sequence[Sequence[np.ndarray]] | None = None,
    scarves: Sequence[Sequence[np.ndarray]] | None = None,
    objects: Sequence[Sequence[np.ndarray]] | None = None,
) -> list[Occluder]:
    """The six occluders in the order in which they are numbered; assets are lists of RGBA pictures, unset: ours."""
    return [Rectangle(), Ellipse(), Polygon(), Glasses(glasses), Scarf(scarves), RealObject(objects)]


@dataclass
class OfficialSamples:
    """`policy` ms1m: one of the six occluders or none, uniform; casia: half of the pictures, one of the six.

    out_size: (height, width) of the network's input. gray: one channel. use_norm: (x - 0.5) / 0.5.
    """

    policy: Policy = "ms1m"
    out_size: tuple[int, int] = (112, 112)
    gray: bool = False
    use_norm: bool = True
    occluders: Sequence[Occluder] = field(default_factory=official_occluders)

    def __post_init__(self) -> None:
        if self.policy not in ("ms1m", "casia"):
            raise ConfigError(f"the occluder policy is ms1m or casia, not {self.policy!r}")

    def __call__(self, face: Face, rng: np.random.RandomState) -> Sample:
        """The sample that the published code makes of `face` when NumPy's global generator stands where `rng` does."""
        twin = rng.randint(1, 11) >= 9
        ori, _ = self._occlude(face.image, rng)
        image, occlusion = (face.masked, 255 - face.mask) if twin else self._occlude(face.image, rng)
        mirrored = rng.randint(1, 11) >= 5
        clean = clean_pixels(torch.from_numpy(occlusion)[None], *self.out_size, torch.tensor([twin]))
        pixels, original = self._pixels(image), self._pixels(ori)
        if mirrored:
            pixels, original, clean = pixels.flip(3), original.flip(3), clean.flip(2)
        height, width = self.out_size
        centre = torch.tensor([[width * rng.random_sample(), height * rng.random_sample()]], dtype=torch.float64)
        pixels = light(pixels, centre, torch.tensor([rng.uniform(0.7, 1.4)]))
        if twin:
            draws = draw_texture(rng, height, width)
            pixels = pixels - texture(draws, height, width, pixels.shape[1]) * ~clean[:, None]
        if self.use_norm:
            pixels, original = (pixels - 0.5) / 0.5, (original - 0.5) / 0.5
        return Sample(pixels[0], clean[0].int(), original[0], face.label)

    def _occlude(self, image: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        return self._choose(rng).draw(image, rng)

    def _choose(self, rng: np.random.RandomState) -> Occluder:
        if self.policy == "ms1m":
            number = rng.randint(0, len(self.occluders) + 1)
            return self.occluders[number] if number < len(self.occluders) else NoOcclusion()
        if rng.randint(0, 8) < 4:
            return NoOcclusion()
        return self.occluders[rng.randint(0, len(self.occluders))]

    def _pixels(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] -> float32 [1, C, height, width] in 0..1."""
        picture = torch.from_numpy(np.ascontiguousarray(image))[None]
        if self.gray:
            picture = grey(picture, "rgb")
        return resize(picture, *self.out_size).permute(0, 3, 1, 2).float() / 255


def draw_texture(rng: np.random.RandomState, height: int, width: int) -> TextureDraws:
    """The numbers of one mask texture in the published order, a row of one."""
    kind = rng.randint(0, 11)
    left, right = 40 + rng.randint(-20, 21), 100 + rng.randint(-20, 11)
    top, bottom = 1, 111
    centre, radius, sign = (0.0, 0.0), 1.0, 1
    keep, noise = [True] * 3, np.zeros((3, height, width), np.float32)
    if kind <= 4:
        top, bottom = 40 + rng.randint(-20, 20), 100 + rng.randint(-20, 10)
        sign = 2 * rng.randint(0, 2) - 1
    elif kind <= 6:
        drawn = rng.randn(bottom - top, right - left)
        shown = noise[:, top:bottom, left:right]  # what of the box lies in the picture
        shown[:] = drawn[: shown.shape[1], : shown.shape[2]]
        keep = [bool(rng.randint(0, 2)) for _ in range(3)]
    else:
        longer = max(right - left, bottom - top)
        centre = (left + (right - left) * rng.random_sample(), top + (bottom - top) * rng.random_sample())
        radius = rng.uniform(int(longer / 1.5), int(1.5 * longer))
        sign = 2 * rng.randint(0, 2) - 1
        keep = [bool(rng.randint(0, 2)) for _ in range(3)]
    return TextureDraws(
        torch.tensor([kind]),
        torch.tensor([[left, top, right, bottom]]),
        torch.tensor([centre], dtype=torch.float64),
        torch.tensor([radius], dtype=torch.float64),
        torch.tensor([float(sign)]),
        torch.tensor([keep]),
        torch.from_numpy(noise)[None],
    )
