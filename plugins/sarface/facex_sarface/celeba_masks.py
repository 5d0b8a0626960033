"""Faces with label maps in folders: one map a picture, or one mask a part as CelebAMask-HQ has them.

    pictures/27.jpg        maps/27.png                        a label map: 8-bit grey PNG, the class of each pixel
    pictures/27.jpg        maps/0/00027_hair.png, ...         masks of 0 and 255, one for each part that the picture shows

A map belongs to the picture of the same path without suffix below its folder, or else of the same name; numbers are compared
as numbers (27 = 00027).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facex.data.imageio import ImageError, decode_image, decode_map
from facex.data.sources.files import read_picture
from facex.data.sources.imagefolder import SUFFIXES
from facex.errors import DataError
from facex_sarface.parser_training import IGNORE
from facex_sarface.regions import LABELS

# CelebAMask-HQ's names of its parts, class 1 first; where masks overlap, the later part is in front
PARTS = (
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip"),
    *("hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
_PART = re.compile(rf"(.+)_({'|'.join(PARTS)})")
# The CelebAMask-HQ class of each class of a label map, by the name of the numbering
NUMBERINGS = {
    "celebamask": tuple(range(len(LABELS))),
    "bisenet": (0, 1, 6, 7, 4, 5, 3, 8, 9, 15, 2, 10, 11, 12, 17, 16, 18, 13, 14),  # as face-parsing.PyTorch has it
}


@dataclass
class Labelled:
    """A picture and where its labels are: a map, or masks by class."""

    picture: Path
    map: Path | None = None
    parts: dict[int, Path] = field(default_factory=dict)


def find_labelled(pictures: Path, maps: Path) -> tuple[list[Labelled], list[Path]]:
    """The pictures with labels, sorted, and those without.

    Raises DataError: no pictures, no labels for any of them, a mask of an unknown part, two maps for one picture.
    """
    if not pictures.is_dir() or not maps.is_dir():
        raise DataError(f"{maps if pictures.is_dir() else pictures}: no such folder")
    found = _Places(pictures, sorted(p for p in pictures.rglob("*") if p.suffix.lower() in SUFFIXES))
    if not found.all:
        raise DataError(f"{pictures}: no pictures ({', '.join(sorted(SUFFIXES))})")
    for path in sorted(maps.rglob("*.png")):
        _place(path, path.relative_to(maps).parent, found)
    labelled = [each for each in found.all if each.map is not None or each.parts]
    if not labelled:
        raise DataError(
            f"{maps}: no label map and no mask is called after a picture of {pictures} (as 27.png or 00027_hair.png after "
            f"{found.all[0].picture.name})"
        )
    return labelled, [each.picture for each in found.all if each.map is None and not each.parts]


class _Places:
    """The pictures by path and by name."""

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        self.all = [Labelled(path) for path in paths]
        self.by_path = {str(e.picture.relative_to(root).with_suffix("")): e for e in self.all}
        names = Counter(_number(e.picture.stem) for e in self.all)
        self.by_name = {n: e for e in self.all if names[n := _number(e.picture.stem)] == 1}

    def get(self, folder: Path, name: str) -> Labelled | None:
        return self.by_path.get(str(folder / name)) or self.by_name.get(_number(name))


def _number(name: str) -> str:
    return str(int(name)) if name.isdecimal() else name


def _place(path: Path, folder: Path, found: _Places) -> None:
    """Put a file of labels beside its picture; files of pictures that are not there are left."""
    own = found.get(folder, path.stem)
    if own is not None and own.picture != path:
        if own.map is not None or own.parts:
            raise DataError(f"{path}: {own.picture} has labels already: {own.map or next(iter(own.parts.values()))}")
        own.map = path
    elif match := _PART.fullmatch(path.stem):
        own = found.get(folder, match.group(1))
        if own is not None:
            label = PARTS.index(match.group(2)) + 1
            if own.map is not None or label in own.parts:
                raise DataError(f"{path}: {own.picture} has labels already: {own.map or own.parts[label]}")
            own.parts[label] = path
    else:
        name, _, part = path.stem.partition("_")
        if part and found.get(folder, name) is not None:
            raise DataError(f"{path}: {part!r} is no part that is known; these are: {', '.join(PARTS)}")


def read_labelled(one: Labelled, numbering: str = "celebamask") -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [H, W, 3] RGB and label map uint8 [h, w] of CelebAMask-HQ's classes (255: not labelled).

    Sizes may differ, the shapes must not. Raises DataError naming the file: unreadable, an unknown class, masks of
    different sizes, another shape than the picture's.
    """
    try:
        image = decode_image(read_picture(one.picture))
    except ImageError as error:
        raise DataError(f"{one.picture}: cannot decode: {error}") from error
    labels = _read_map(one.map, numbering) if one.map is not None else _join(one.parts)
    (height, width), (h, w) = image.shape[:2], labels.shape
    if abs(height * w - width * h) > max(height, width, h, w):
        where = one.map or next(iter(one.parts.values()))
        raise DataError(f"{where}: its labels are {w}x{h}, {one.picture.name} is {width}x{height}: another shape")
    return image, labels


def _read_map(path: Path, numbering: str) -> np.ndarray:
    table = np.full(256, IGNORE, np.uint8)
    table[: len(LABELS)] = NUMBERINGS[numbering]
    try:
        raw = decode_map(read_picture(path))
    except ImageError as error:
        raise DataError(f"{path}: not a label map: {error}") from error
    wrong = np.unique(raw[(raw >= len(LABELS)) & (raw != IGNORE)])
    if wrong.size:
        raise DataError(
            f"{path}: the classes {wrong[:8].tolist()} are unknown; known are 0..{len(LABELS) - 1}, and {IGNORE} for pixels "
            "without label"
        )
    return table[raw]


def _join(parts: dict[int, Path]) -> np.ndarray:
    """The masks painted one over the other, in the order of the classes; the rest is background."""
    labels: np.ndarray | None = None
    for label, path in sorted(parts.items()):
        try:
            mask = decode_image(read_picture(path))[..., 0]
        except ImageError as error:
            raise DataError(f"{path}: cannot decode: {error}") from error
        if 0 < mask.max() < 128:
            raise DataError(f"{path}: a mask holds 0 and 255; the largest value here is {mask.max()}")
        if labels is None:
            labels = np.zeros(mask.shape, np.uint8)
        if mask.shape != labels.shape:
            first = parts[min(parts)].name
            raise DataError(
                f"{path}: {mask.shape[1]}x{mask.shape[0]}, {first} is {labels.shape[1]}x{labels.shape[0]}: masks of one picture "
                "have one size"
            )
        labels[mask > 127] = label
    assert labels is not None
    return labels
