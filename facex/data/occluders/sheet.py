"""Contact sheets of occluded pictures: each with its mask beneath it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from facex.data.dataset import FaceSet, open_dataset
from facex.data.imageio import encode_jpeg, encode_png
from facex.data.sources.synthetic import SyntheticSet
from facex.errors import ConfigError, DataError, FacexError
from facex.files import atomic_path
from facex.methods.batch import Batch

_ZOOM = 2
_GREY = (0.299, 0.587, 0.114)


def _open(path: str, size: int, landmarks: bool) -> FaceSet | SyntheticSet:
    """The set, with its landmarks where it has some."""
    if landmarks:
        with contextlib.suppress(FacexError):  # it has none; other faults show again below
            return open_dataset(path, size=size, fields=("image", "label", "landmarks"))
    return open_dataset(path, size=size)


def read_batch(path: str, count: int, seed: int, size: int, landmarks: bool = False) -> Batch:
    """`count` random pictures of a data set (all of a smaller one), RGB, in the order of their numbers; with its landmarks
    where it has some. Raises what `open_dataset` raises."""
    data = _open(path, size, landmarks)
    numbers = np.sort(np.random.RandomState(seed).permutation(len(data))[:count])
    if not len(numbers):
        raise DataError(f"{path}: holds no pictures")
    fields = data.allocate(len(numbers), False)
    data.read(numbers, fields)
    return Batch(fields, dict(data.kinds), data.color, torch.from_numpy(numbers), torch.arange(len(numbers)))


def contact_sheet(before: Batch, after: Batch, columns: int) -> np.ndarray:
    """uint8 RGB: rows of occluded pictures, beneath each the picture as it was, darkened, its mask in red."""
    rows = []
    images, clean, masks = (x.numpy() for x in (after["image"], before["image"], after["occlusion"]))
    for start in range(0, len(images), columns):
        cells = range(start, min(start + columns, len(images)))
        rows.append(_row([images[i] for i in cells], columns))
        rows.append(_row([_overlay(clean[i], masks[i]) for i in cells], columns))
    return np.vstack(rows)


def _row(pictures: list[np.ndarray], columns: int) -> np.ndarray:
    empty = [np.zeros_like(pictures[0])] * (columns - len(pictures))
    return np.hstack([cv2.resize(p, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_CUBIC) for p in pictures + empty])


def _overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = np.repeat((0.5 * (image @ np.array(_GREY, np.float32)))[..., None], 3, 2)
    out[mask > 0] = 0.5 * out[mask > 0] + (128, 20, 20)
    return out.astype(np.uint8)


def write_sheet(path: str | os.PathLike[str], before: Batch, after: Batch, columns: int) -> None:
    """Write `contact_sheet` as .png or .jpg; ConfigError for another suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"{path}: a contact sheet is a .png or .jpg file")
    sheet = contact_sheet(before, after, columns)
    data = encode_png(sheet) if suffix == ".png" else encode_jpeg(sheet)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
