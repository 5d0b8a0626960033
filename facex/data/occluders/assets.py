"""The pictures that occluders are made of: RGBA, from a folder of one's own or drawn by facex."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from facex.data.imageio import MAX_PIXELS, ImageError, image_info
from facex.data.native import native
from facex.entrypoints import nearest
from facex.errors import ConfigError, DataError

Assets: TypeAlias = Sequence[np.ndarray]
"""Pictures uint8 [h, w, 4], RGBA, colours not multiplied by alpha."""

# Built-in assets -> the function that draws them.
_BUILTIN = {
    "eyeglasses": "glasses_art:eyeglasses",
    "sunglasses": "glasses_art:sunglasses",
    "scarf": "scarf_art:scarves",
    "object": "object_art:objects",
    "hand": "hand_art:hands",
    "texture": "texture_art:textures",
}


def resize_rgba(asset: np.ndarray, width: int, height: int) -> np.ndarray:
    """`asset` uint8 [h, w, 4] as uint8 [height, width, 4], to the bit as Pillow's bicubic resize of an RGBA image."""
    return native().resize_rgba(np.ascontiguousarray(asset), width, height)


@functools.lru_cache
def builtin_assets(name: str) -> tuple[np.ndarray, ...]:
    """The pictures that facex draws itself, the same on every machine; ConfigError for a name that does not exist.

    Names: eyeglasses, sunglasses, scarf, object, hand, texture.
    """
    if name not in _BUILTIN:
        raise ConfigError(f"there are no built-in assets {name!r}{nearest(name, _BUILTIN)}")
    module, function = _BUILTIN[name].split(":")
    drawn = tuple(getattr(importlib.import_module(f"facex.data.occluders.{module}"), function)())
    for picture in drawn:
        picture.setflags(write=False)
    return drawn


def load_folder(folder: str | os.PathLike[str]) -> list[np.ndarray]:
    """The `.png` files of a folder, in the order of their names: RGBA uint8 [h, w, 4].

    Raises DataError naming the file: no such folder, none in it, unreadable, without alpha, or transparent throughout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of occluder pictures")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png")
    if not files:
        raise DataError(f"{folder}: holds no .png file; an occluder's assets are PNG pictures with alpha")
    return [load_rgba(path) for path in files]


def load_rgba(path: Path) -> np.ndarray:
    """One PNG with alpha as RGBA uint8 [h, w, 4]; DataError as `load_folder`."""
    data = path.read_bytes()
    try:
        info = image_info(data)
    except ImageError as error:
        raise DataError(f"{path}: {error}") from error
    if info.height * info.width > MAX_PIXELS:
        raise DataError(f"{path}: {info.width}x{info.height} pixels are more than an asset may have ({MAX_PIXELS})")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise DataError(f"{path}: OpenCV cannot decode this {info.format}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 4:
        raise DataError(
            f"{path}: has no alpha channel of 8 bits (shape {list(picture.shape)}, {picture.dtype}): "
            "save it as an 8-bit RGBA PNG, transparent where the face shows"
        )
    if not picture[..., 3].any():
        raise DataError(f"{path}: is transparent everywhere, it would cover nothing")
    return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)


def check_assets(assets: Assets | Sequence[Assets], name: str) -> list[Assets]:
    """`assets` as a list of lists; ConfigError for an empty one, DataError for a picture that is not RGBA."""
    first = assets[0] if len(assets) else None
    lists = [assets] if isinstance(first, np.ndarray) else list(assets)
    if not lists or not all(len(each) for each in lists):
        raise ConfigError(f"{name}: needs at least one asset")
    for number, picture in enumerate(picture for each in lists for picture in each):
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (4,):
            raise DataError(f"{name}: asset {number} is no uint8 picture [h, w, 4] with alpha")
    return lists  # type: ignore[return-value]
