"""From the parser's labels to the regions that SARFace keeps or blacks out: schemes as data tables, and the split.

Source: SARFace (`parsing_for_vgg.py`, `face_split`). The labels are CelebAMask-HQ's 19. A scheme gives every label one
region, or cuts it about a centre into four (a pinwheel) or two (left and right):

    top left      y <= cy and x <  cx        left    x <  cx
    top right     y <  cy and x >= cx        right   x >= cx
    bottom left   y >  cy and x <= cx
    bottom right  y >= cy and x >  cx

The pinwheel covers every pixel but (cy, cx). Officially that one keeps its raw label as its region: in `sar24` a pixel of
skin becomes region 1 (eyeglasses), one of background region 0 (nose). `center_pixel="fixed"` gives it to the bottom
right instead.

The centre is the floor of the mean row and column of a label's pixels, by integer division, so that every device gives
the same; without such pixels it is (H // 2, W // 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from facex.errors import ConfigError, DataError

LABELS = (
    "background",
    "skin",
    "nose",
    "eyeglasses",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "earring",
    "necklace",
    "neck",
    "cloth",
)
BACKGROUND, SKIN, NOSE, HAIR, NECK, CLOTH = (
    LABELS.index(name) for name in ("background", "skin", "nose", "hair", "neck", "cloth")
)
INPUT_SIZE = 112

CenterPixel = Literal["official", "fixed"]
SchemeName = Literal["sar24", "legacy23", "raw19"]
Part = Literal["all", "TL", "TR", "BL", "BR", "left", "right"]
# Where a pixel stands about the centre: (row, column), each 0 before, 1 at, 2 after it.
PARTS: dict[str, tuple[tuple[int, int], ...]] = {
    "TL": ((0, 0), (1, 0)),
    "TR": ((0, 1), (0, 2)),
    "BL": ((2, 0), (2, 1)),
    "BR": ((1, 2), (2, 2)),
    "left": ((0, 0), (1, 0), (2, 0)),
    "right": ((0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)),
}
CENTRE = (1, 1)
_NONE = 255


@dataclass(frozen=True)
class Region:
    """One region: its name, the raw labels it is made of, and the part of them (a quadrant, a side, or all)."""

    name: str
    labels: tuple[int, ...]
    part: Part = "all"


@dataclass(frozen=True)
class RegionScheme:
    """A cut of the face: region i is `regions[i]`.

    center: the labels whose mean is the centre, the first of them that the picture shows.
    removable: the regions that the policy decides about, in the order of its actions; all others are always kept.
    """

    name: str
    regions: tuple[Region, ...]
    center: tuple[int, ...]
    removable: tuple[int, ...]
    classes: int = len(LABELS)

    def __post_init__(self) -> None:
        wrong = [k for k in self.removable if not 0 <= k < len(self.regions)]
        if wrong or len(set(self.removable)) != len(self.removable):
            raise ConfigError(
                f"region scheme {self.name}: removable is {list(self.removable)}; it must name regions "
                f"0..{len(self.regions) - 1}, each once"
            )

    @property
    def count(self) -> int:
        """How many regions there are."""
        return len(self.regions)

    @property
    def names(self) -> tuple[str, ...]:
        """The regions' names, by id."""
        return tuple(region.name for region in self.regions)

    @property
    def ids(self) -> tuple[int, ...]:
        """All region ids."""
        return tuple(range(self.count))

    @property
    def kept(self) -> tuple[int, ...]:
        """The regions that are always kept."""
        return tuple(k for k in self.ids if k not in self.removable)

    def keep(self, actions: Tensor) -> Tensor:
        """keep [B, regions] of actions [B, len(removable)] (0 or 1, any type): 1 for what is always kept."""
        if actions.dim() != 2 or actions.shape[1] != len(self.removable):
            raise ValueError(
                f"region scheme {self.name} has {len(self.removable)} actions; got {tuple(actions.shape)}, wanted "
                f"[B, {len(self.removable)}]"
            )
        keep = actions.new_ones(len(actions), self.count)
        keep[:, list(self.removable)] = actions
        return keep


def split(labels: Tensor, scheme: RegionScheme, center_pixel: CenterPixel = "official") -> Tensor:
    """Region ids uint8 [B, H, W] of raw labels [B, H, W] (uint8 or int64, not changed).

    Raises:
        ValueError: labels of another shape or type.
        DataError: a label that the scheme does not know; the message names it and the picture.
    """
    if labels.dim() != 3 or labels.dtype not in (torch.uint8, torch.int64):
        raise ValueError(f"split reads labels uint8 or int64 [B, H, W], not {labels.dtype} {tuple(labels.shape)}")
    check_labels(labels, scheme.classes)
    cy, cx = centers(labels, scheme.center)
    row, column = (_standing(size, at) for size, at in zip(labels.shape[1:], (cy, cx), strict=True))
    entries = labels.int() * 9 + (row * 3)[:, :, None] + column[:, None, :]
    return table(scheme, center_pixel).to(labels.device).index_select(0, entries.flatten()).view(labels.shape)


def _standing(size: int, centre: Tensor) -> Tensor:
    """int32 [B, size]: 0 before, 1 at, 2 after the centre [B]."""
    place = torch.arange(size, device=centre.device)
    return (place >= centre[:, None]).int() + (place > centre[:, None]).int()


def centers(labels: Tensor, of: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(rows, columns) int64 [B]: floor of the mean position of the first label of `of` that is there."""
    batch, height, width = labels.shape
    cy = labels.new_full((batch,), height // 2, dtype=torch.int64)
    cx = labels.new_full((batch,), width // 2, dtype=torch.int64)
    for label in reversed(of):
        shown = labels == label
        by_row, by_column = shown.sum(2), shown.sum(1)
        count = by_row.sum(1)
        rows = (by_row * torch.arange(height, device=labels.device)).sum(1)
        columns = (by_column * torch.arange(width, device=labels.device)).sum(1)
        cy = torch.where(count > 0, rows // count.clamp(min=1), cy)
        cx = torch.where(count > 0, columns // count.clamp(min=1), cx)
    return cy, cx


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise DataError for a label outside 0..classes - 1."""
    wrong = labels >= classes if labels.dtype == torch.uint8 else (labels >= classes) | (labels < 0)
    if bool(wrong.any()):
        picture, row, column = (int(v) for v in wrong.nonzero()[0])
        value = int(labels[picture, row, column])
        raise DataError(
            f"label map {picture} of the batch: class {value} at row {row}, column {column}; this region scheme knows "
            f"0..{classes - 1}. Map another parser's classes by a label table (facex_sarface.parser.parse)"
        )


@cache
def table(scheme: RegionScheme, center_pixel: CenterPixel = "official") -> Tensor:
    """Region ids uint8 [classes * 9]: for each label the nine standings about the centre, row by row."""
    if center_pixel not in ("official", "fixed"):
        raise ConfigError(f"center_pixel is {center_pixel!r}; it must be official or fixed")
    filled = torch.full((scheme.classes, 3, 3), _NONE, dtype=torch.uint8)
    for k, region in enumerate(scheme.regions):
        for label in region.labels:
            if region.part == "all":
                filled[label] = k
            for row, column in PARTS.get(region.part, ()):
                filled[label, row, column] = k
    for label, about in enumerate(filled):
        if about[CENTRE] == _NONE:
            about[CENTRE] = label if center_pixel == "official" else about[PARTS["BR"][0]]
    return filled.flatten()


def nearest_index(source: int, size: int) -> Tensor:
    """int64 [size]: the source index of every output of a nearest resize, floor(i * source / size)."""
    return torch.arange(size) * source // size


def to_input_size(ids: Tensor, size: int = INPUT_SIZE) -> Tensor:
    """Region ids or labels [B, H, W] -> [B, size, size], nearest."""
    rows, columns = (nearest_index(n, size).to(ids.device) for n in ids.shape[1:])
    return ids[:, rows[:, None], columns[None, :]]


def _quarters(name: str, label: int) -> tuple[Region, ...]:
    return tuple(Region(f"{name} {part}", (label,), part) for part in ("TL", "TR", "BL", "BR"))


def _plain(*labels: int) -> tuple[Region, ...]:
    return tuple(Region(LABELS[label], (label,)) for label in labels)


_SAR24 = (
    *_plain(*range(2, 10)),
    Region("mouth", (10, 11, 12)),
    *_plain(*range(14, 19)),
    *_quarters("background", BACKGROUND),
    *_quarters("skin", SKIN),
    Region("hair left", (HAIR,), "left"),
    Region("hair right", (HAIR,), "right"),
)
# labels keep their numbers; region 1 is what the pinwheel leaves of the skin: its centre
_LEGACY23 = (
    *_plain(BACKGROUND),
    Region("skin centre", ()),
    *_plain(*range(2, 19)),
    *_quarters("skin", SKIN),
)
_DECIDED = (BACKGROUND, SKIN, HAIR, NECK, CLOTH)

SCHEMES: dict[str, RegionScheme] = {
    "sar24": RegionScheme("sar24", _SAR24, (SKIN,), tuple(range(12, 24))),
    "legacy23": RegionScheme("legacy23", _LEGACY23, (NOSE, SKIN), (BACKGROUND, HAIR, NECK, CLOTH, 19, 20, 21, 22)),
    "raw19": RegionScheme("raw19", _plain(*range(19)), (), _DECIDED),
}


def scheme_named(name: str) -> RegionScheme:
    """The scheme of a name; raises ConfigError with the names there are."""
    if name not in SCHEMES:
        raise ConfigError(f"there is no region scheme {name!r}; known: {', '.join(SCHEMES)}")
    return SCHEMES[name]
