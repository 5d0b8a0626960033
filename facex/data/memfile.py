"""Memory-mapped validation folders as AdaFace writes them, read as verification sets and written from `.bin` sets.

Layout: `ROOT/NAME/memfile/mem_file.dat` (raw float32 [2n, 3, 112, 112], BGR, (x / 255 - 0.5) / 0.5), beside it
`mem_file.dat.conf` (JSON: shape, dtype), and `ROOT/NAME_list.npy` (bool [n]). Source: AdaFace evaluate_utils.py and
convert.py. The older form without `memfile/` is a bcolz array, whose compression only bcolz reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, overload

import numpy as np

from facex.data.imageio import resize_short
from facex.data.verification import OnError, VerificationSet
from facex.errors import VerificationSetError
from facex.files import atomic_path, write_json

_FOLDER, _DATA, _CONF, _LABELS = "memfile", "mem_file.dat", "mem_file.dat.conf", "_list.npy"
_DTYPES = ("float32", "float64", "float16")
_BLOCK = 256  # pictures converted at a time when writing


@dataclass
class _Rows(Sequence[bytes]):
    """The pictures as a sequence: AdaFace's numbers as they lie in the file."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        found = self.pixels[place]
        return [row.tobytes() for row in found] if isinstance(place, slice) else found.tobytes()


class MemfileSet(VerificationSet):
    """A verification set whose pictures lie decoded in a memory-mapped file; only the pages that are asked for are
    read. `pixels` is the file's array [2n, 3, H, W]."""

    def __init__(self, pixels: np.ndarray, issame: np.ndarray, name: str, path: Path) -> None:
        super().__init__(cast("list[bytes]", _Rows(pixels)), issame, name, path)
        self.pixels = pixels

    def decode(
        self,
        color: Literal["rgb", "bgr"] = "rgb",
        size: int | None = 112,
        on_error: OnError = "raise",
        start: int = 0,
        stop: int | None = None,
    ) -> np.ndarray:
        """Images `start` to `stop` as uint8 [m, H, W, 3], as `VerificationSet.decode`: the 8-bit values that AdaFace
        normalised come back exactly. Raises VerificationSetError for values outside -1..1 ("grey" replaces those)."""
        stop = len(self.pixels) if stop is None else min(stop, len(self.pixels))
        rows = np.asarray(self.pixels[start:stop], np.float32)
        bad = ~(np.abs(rows).max((1, 2, 3), initial=0) <= 1 + 1e-3)  # NaN included
        if bad.any() and on_error == "raise":
            raise VerificationSetError(
                f"{self.path}: picture {start + int(np.argmax(bad))} has values outside -1..1: no AdaFace memfile, or a"
                " damaged one (on_error='grey' replaces such images)"
            )
        rows = np.where(bad[:, None, None, None], 0, rows)  # 0 is mid grey
        images = np.rint(rows * 127.5 + 127.5).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        if color == "rgb":
            images = images[..., ::-1]
        if size is not None and images.shape[2] != size and len(images):
            images = np.stack([resize_short(np.ascontiguousarray(image), size) for image in images])
        return np.ascontiguousarray(images)


def is_memfile(path: str | Path) -> bool:
    """Whether `path` is a folder in AdaFace's layout: ROOT/NAME with `memfile/` inside."""
    return (Path(path) / _FOLDER).is_dir()


def open_memfile(path: str | Path) -> MemfileSet:
    """Open ROOT/NAME (labels in ROOT/NAME_list.npy). Nothing is loaded but the labels.

    Raises VerificationSetError: no such folder, a bcolz array, a file that is missing or damaged, sizes that do not
    fit, labels that are no booleans or too few.
    """
    path = Path(path)
    if not is_memfile(path):
        if (path / "meta").is_dir() and (path / "data").is_dir():
            raise VerificationSetError(
                f"{path}: a bcolz array, which facex does not read; let AdaFace make its memfile once"
                " (evaluate_utils.get_val_pair), or use the .bin file it came from"
            )
        raise VerificationSetError(f"{path}: no folder {_FOLDER}/ inside: not an AdaFace validation folder")
    data, labels = path / _FOLDER / _DATA, path.parent / (path.name + _LABELS)
    shape, dtype = _conf(path / _FOLDER / _CONF)
    try:
        size = data.stat().st_size
        if size != int(np.prod(shape, dtype=object)) * dtype.itemsize:
            raise VerificationSetError(
                f"{data}: {size} bytes, but {_CONF} says {list(shape)} of {dtype}; write it again"
            )
        pixels = np.memmap(data, dtype, "r", shape=shape)
    except OSError as error:
        raise VerificationSetError(f"{data}: cannot be read: {error.strerror or error}") from error
    issame = _labels(labels)
    if len(pixels) != 2 * len(issame):
        raise VerificationSetError(f"{labels}: {len(issame)} pairs for {len(pixels)} pictures; two a pair are wanted")
    return MemfileSet(pixels, issame, path.name, path)


def _conf(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationSetError(f"{path}: cannot be read: {error}") from error
    shape, dtype = (found.get("shape"), found.get("dtype")) if isinstance(found, dict) else (None, None)
    sides = [n for n in shape if type(n) is int and n > 0] if isinstance(shape, list) else []
    if len(sides) != 4 or sides != shape or sides[1] != 3 or dtype not in _DTYPES:
        raise VerificationSetError(
            f"{path}: shape {shape} of {dtype}: [pictures, 3, H, W] of {', '.join(_DTYPES)} is wanted"
        )
    return tuple(sides), np.dtype(dtype)


def _labels(path: Path) -> np.ndarray:
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise VerificationSetError(f"{path}: cannot be read as labels: {error}") from error
    if labels.ndim != 1 or not len(labels) or not np.isin(labels, (0, 1)).all():
        raise VerificationSetError(
            f"{path}: one boolean a pair is wanted, {labels.dtype} {list(labels.shape)} was found"
        )
    return labels.astype(bool)


def write_memfile(root: str | Path, one: VerificationSet, size: int = 112) -> Path:
    """Write a set as ROOT/NAME in AdaFace's layout, float32, a block of pictures at a time; the folder's path.

    Raises VerificationSetError for a picture that does not decode; what is complete appears under its name at the end.
    """
    folder = Path(root) / one.name
    total = len(one.entries)
    with atomic_path(folder / _FOLDER / _DATA) as temporary:
        shape: list[int] = []
        with open(temporary, "wb") as file:
            for block in _blocks(one, size, total):
                shape = [total, *block.shape[1:]]
                file.write(block.tobytes())
    write_json(folder / _FOLDER / _CONF, {"shape": shape, "dtype": "float32"})
    with atomic_path(folder.parent / (folder.name + _LABELS)) as temporary, open(temporary, "wb") as labels:
        np.save(labels, one.issame)
    return folder


def _blocks(one: VerificationSet, size: int, total: int) -> Iterator[np.ndarray]:
    for start in range(0, total, _BLOCK):
        images = one.decode("bgr", size=size, start=start, stop=start + _BLOCK)
        planes = images.transpose(0, 3, 1, 2).astype(np.float32)
        yield np.ascontiguousarray((planes / np.float32(255) - np.float32(0.5)) / np.float32(0.5))
