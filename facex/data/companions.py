"""Companion fields of a data set: landmarks, label maps, masks and flags in files beside the images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from facex.data.card import Card
from facex.data.imageio import ImageError, decode_map, resize_map
from facex.data.recordio import RecordFile
from facex.errors import ConfigError, DataError
from facex.methods.batch import Field

# The pairs of the 68-point iBUG markup that exchange under a horizontal flip.
_SWAPS_68 = (
    *((i, 16 - i) for i in range(8)),
    *((17 + i, 26 - i) for i in range(5)),
    (31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46),
    (48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67),
)  # fmt: skip
# CelebAMask-HQ's classes: left and right eye, brow, ear. A set labelled in another order needs a facex.json.
_SWAPS_PARSING = ((4, 5), (6, 7), (8, 9))
KNOWN = {
    "landmarks5": Field("points", ((0, 1), (3, 4))),
    "landmarks68": Field("points", _SWAPS_68),
    "parsing": Field("label_map", _SWAPS_PARSING),
    "occlusion": Field("mask"),
    "flags": Field("flag"),
}
# Names by which methods ask, and the files that may answer, best first.
ALIASES = {"landmarks": ("landmarks68", "landmarks5"), "mask": ("occlusion",), "flag": ("flags",)}
_PART = 1 << 20  # flags that are looked at together


class Companion(Protocol):
    """One companion field. `rows` are sample numbers in the whole set, `keys` their record keys, `sizes` int32 [b, 2]
    the stored pictures' own height and width."""

    field: Field

    def allocate(self, b: int, pin: bool) -> Tensor: ...

    def read(self, rows: np.ndarray, keys: np.ndarray, sizes: np.ndarray, out: Tensor) -> None: ...


class ArrayCompanion:
    """A NAME.npy: points float32 [N, n, 2], flags bool [N], scalars float32 [N] or [N, K]; mapped, read by row."""

    def __init__(self, path: Path, field: Field, count: int, size: tuple[int, int]) -> None:
        self.path, self.field, self.size = path, field, size
        self._values = self._load()
        shape = self._values.shape
        if shape[:1] != (count,):
            raise DataError(f"{path}: {shape[0] if shape else 0} rows, the set has {count} samples")
        if field.kind == "points" and (len(shape) != 3 or shape[2] != 2):
            raise DataError(f"{path}: points must have the shape [N, n, 2], these have {list(shape)}")
        if field.kind == "flag" and len(shape) != 1:
            raise DataError(f"{path}: flags must have the shape [N], these have {list(shape)}")
        if field.kind == "flag":
            self._check_flags()
        if field.kind == "points" and any(max(pair) >= shape[1] for pair in field.swaps):
            raise DataError(f"{path}: {shape[1]} points, but the swaps name point {max(max(p) for p in field.swaps)}")

    def _load(self) -> np.ndarray:
        try:
            values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{self.path}: not a .npy array: {error}") from error
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            raise DataError(f"{self.path}: not an array of numbers")
        return values

    def _check_flags(self) -> None:
        if self._values.dtype == bool:
            return
        for start in range(0, len(self._values), _PART):
            part = self._values[start : start + _PART]
            wrong = np.flatnonzero((part != 0) & (part != 1))
            if len(wrong):
                raise DataError(f"{self.path}: a flag is 0 or 1; sample {start + wrong[0]} has {part[wrong[0]]}")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_values": None}  # by path, never the values themselves

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._values = self._load()

    def allocate(self, b: int, pin: bool) -> Tensor:
        dtype = torch.bool if self.field.kind == "flag" else torch.float32
        return torch.empty((b, *self._values.shape[1:]), dtype=dtype, pin_memory=pin)

    def read(self, rows: np.ndarray, keys: np.ndarray, sizes: np.ndarray, out: Tensor) -> None:
        values = self._values[rows]
        if self.field.kind == "flag":
            out.numpy()[...] = values.astype(bool)
            return
        target = out.numpy()
        target[...] = values
        if self.field.kind != "points":
            return
        scale = np.array(self.size[::-1]) / np.maximum(sizes[:, ::-1], 1)  # (x, y) each
        if (scale != 1).any():  # pixel centres are at integers
            target[...] = ((target + 0.5) * scale[:, None, :] - 0.5).astype(np.float32)


class MapCompanion:
    """A NAME.rec of grey PNG maps under the images' keys: label maps, or masks of 0 and 255."""

    def __init__(self, path: Path, field: Field, size: tuple[int, int], threads: int) -> None:
        self.path, self.field, self.size, self.threads = path, field, size, threads
        self._file = RecordFile(path)

    def check(self, keys: np.ndarray) -> None:
        """Every image must have its map."""
        missing = self._file.positions(keys) < 0
        if missing.any():
            raise DataError(f"{self.path}: no map for key {keys[missing][0]} ({int(missing.sum())} missing)")

    def allocate(self, b: int, pin: bool) -> Tensor:
        return torch.empty((b, *self.size), dtype=torch.uint8, pin_memory=pin)

    def read(self, rows: np.ndarray, keys: np.ndarray, sizes: np.ndarray, out: Tensor) -> None:
        target = out.numpy()

        def work(row: int) -> None:
            key = int(keys[row])
            try:
                image = decode_map(self._file.unpack(key)[1])
            except ImageError as error:
                raise DataError(f"{self.path}: key {key}: cannot decode: {error}") from error
            if image.shape != self.size:
                if image.shape != tuple(sizes[row]):
                    raise DataError(f"{self.path}: key {key}: a map of {image.shape}, the image is {tuple(sizes[row])}")
                image = resize_map(image, self.size)
            target[row] = image

        if self.threads > 1 and len(keys) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, range(len(keys))))
        else:
            for row in range(len(keys)):
                work(row)


def available(folder: Path, card: Card | None) -> dict[str, tuple[Path, Field]]:
    """Companion files of a folder by field name; the card's kinds and swaps win over the known ones."""
    found = {}
    for name, field in {**KNOWN, **(card.fields if card else {})}.items():
        path = folder / (name + (".rec" if field.kind in ("label_map", "mask") else ".npy"))
        if path.is_file() and "/" not in name and os.sep not in name:
            found[name] = (path, field)
    return found


def open_companions(
    folder: Path, card: Card | None, wanted: Iterable[str], keys: np.ndarray, size: tuple[int, int], threads: int
) -> dict[str, Companion]:
    """The wanted fields under the names asked for. `keys` are those of all samples of the set.

    Raises ConfigError naming what the folder has when a field is missing, DataError when a file does not fit the set.
    """
    files = available(folder, card)
    companions: dict[str, Companion] = {}
    for name in wanted:
        source = next((n for n in (name, *ALIASES.get(name, ())) if n in files), None)
        if source is None:
            have = ", ".join(sorted(files)) or "none"
            raise ConfigError(f"{folder}: the data set has no field {name!r} (companion fields there: {have})")
        path, field = files[source]
        if path.suffix == ".rec":
            companion = MapCompanion(path, field, size, threads)
            companion.check(keys)
            companions[name] = companion
        else:
            companions[name] = ArrayCompanion(path, field, len(keys), size)
    return companions
