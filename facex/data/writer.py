"""Writing RecordIO: `RecordWriter` for records of any kind, `FaceSetWriter` for a training set in insightface's
layout."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np

from facex.data.card import Card, write_card
from facex.data.imageio import encode_png
from facex.data.property import Property, write_property
from facex.errors import DataError
from facex.files import atomic_path
from facex.methods.batch import Field

MAGIC = struct.pack("<I", 0xCED7230A)
RECORD_LIMIT = 1 << 29  # MXNet refuses longer records
EXACT_FLOAT = 1 << 24  # labels and counts are float32: whole numbers above this are rounded
_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")


def pack_record(label: float | Sequence[float] | np.ndarray, payload: bytes = b"", id: int = 0, id2: int = 0) -> bytes:
    """An image record as mx.recordio.pack makes it: a number goes into the header (flag 0), several behind it as
    float32."""
    if np.ndim(label) == 0:
        return _HEADER.pack(0, float(label), id, id2) + payload  # type: ignore[arg-type]
    labels = np.asarray(label, "<f4").ravel()
    return _HEADER.pack(labels.size, 0.0, id, id2) + labels.tobytes() + payload


def split_record(record: bytes) -> list[tuple[int, bytes]]:
    """Parts (continuation flag, data) of a record: cut at every aligned magic, which is left out."""
    pieces, start, found = [], 0, record.find(MAGIC)
    while found >= 0:
        if found % 4 == 0:
            pieces.append(record[start:found])
            start = found + 4
            found = record.find(MAGIC, start)
        else:
            found = record.find(MAGIC, found + 1)
    pieces.append(record[start:])
    if len(pieces) == 1:
        return [(0, pieces[0])]
    return [(1, pieces[0]), *((2, piece) for piece in pieces[1:-1]), (3, pieces[-1])]


class RecordWriter:
    """Writes `PREFIX.rec` and `PREFIX.idx`, byte for byte as MXNet does; both appear under their names when it closes
    well.

    Use it as a context manager: an exception inside removes what was written. Keys are int or str, each once.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        prefix = Path(prefix)
        self.rec_path = prefix if prefix.suffix == ".rec" else prefix.with_name(prefix.name + ".rec")
        self.idx_path = self.rec_path.with_suffix(".idx")
        self._stack = ExitStack()
        with ExitStack() as stack:  # the .rec is entered last, so it is renamed first: an .idx never lacks its records
            idx = stack.enter_context(atomic_path(self.idx_path))
            self._idx: BinaryIO = stack.enter_context(open(idx, "wb"))
            rec = stack.enter_context(atomic_path(self.rec_path))
            self._rec: BinaryIO = stack.enter_context(open(rec, "wb"))
            self._stack = stack.pop_all()
        self._offset = 0
        self._numbers = array("q")
        self._texts: list[str] = []

    def __len__(self) -> int:
        return len(self._numbers) + len(self._texts)

    def write(self, key: int | str, record: bytes) -> int:
        """Append a record; returns its offset. Raises DataError for 2^29 bytes or more, and for a key given twice."""
        if len(record) >= RECORD_LIMIT:
            raise DataError(
                f"{self.rec_path}: key {key}: a record must be shorter than 2^29 bytes, this has {len(record)}"
            )
        if isinstance(key, str):
            if "\t" in key or "\n" in key or key != key.strip() or not key:
                raise DataError(f"{self.rec_path}: key {key!r} cannot stand in an index line")
            self._texts.append(key)
        else:
            self._numbers.append(key)
        offset = self._offset
        for flag, data in split_record(record):
            block = _PART.pack(MAGIC, flag << 29 | len(data)) + data + b"\0" * (-len(data) % 4)
            self._rec.write(block)
            self._offset += len(block)
        self._idx.write(f"{key}\t{offset}\n".encode())
        return offset

    def _check_keys(self) -> None:
        """Refuse keys that were given twice; once, at the end, because a set of all keys costs more memory than the
        index."""
        for keys in (np.frombuffer(self._numbers, np.int64), np.array(self._texts)):
            values, counts = np.unique(keys, return_counts=True)
            if (counts > 1).any():
                raise DataError(f"{self.rec_path}: key {values[counts > 1][0]} was given twice")

    def close(self) -> None:
        """Finish both files and give them their names. Raises DataError, and leaves nothing, when a key came twice."""
        with self._stack:
            self._check_keys()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._stack.__exit__(kind, error, trace)


class FaceSetWriter:
    """Writes a training set into a folder: `train.rec`, `train.idx`, `property`, `facex.json` and companion fields.

    Layout "insightface": images 1..n, identity records n+1..n+K with the half-open range of their keys, key 0 last with
    [n+1, n+K+1]; samples must come class by class, labels ascending. Layout "plain": images 0..n-1 in any order, no
    header, as im2rec writes. `size` is (height, width) of every image. `color` is the channel order that the encoded
    pictures decode to ("bgr" only for pictures encoded from swapped arrays).

    `fields` are the companion fields of each sample by name: points and scalars and flags go into NAME.npy (row =
    sample), label maps and masks, uint8 [H, W], as PNG into NAME.rec under the image's key. Known names: landmarks5,
    landmarks68, parsing, occlusion, flags.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        num_classes: int,
        size: tuple[int, int] = (112, 112),
        *,
        fields: Mapping[str, Field] | None = None,
        color: str = "rgb",
        layout: Literal["insightface", "plain"] = "insightface",
    ) -> None:
        self.folder = Path(folder)
        self.fields = dict(fields or {})
        self.card = Card(color, size, num_classes, None, self.fields)
        self.layout = layout
        self.folder.mkdir(parents=True, exist_ok=True)
        self._values: dict[str, list[np.ndarray]] = {}
        self._maps: dict[str, RecordWriter] = {}
        self._ends: list[int] = []  # last key + 1 of each identity so far (insightface layout)
        self._count = 0
        with ExitStack() as stack:
            self._writer = stack.enter_context(RecordWriter(self.folder / "train"))
            for name, field in self.fields.items():
                if field.kind in ("label_map", "mask"):
                    self._maps[name] = stack.enter_context(RecordWriter(self.folder / name))
                else:
                    self._values[name] = []
            self._stack = stack.pop_all()

    def __len__(self) -> int:
        return self._count

    def add(self, image: bytes, label: int, **values: Any) -> int:
        """Append an encoded image with its label and companion values; returns its key."""
        label = int(label)
        if not 0 <= label < self.card.classes:  # type: ignore[operator]
            raise DataError(f"{self.folder}: label {label} out of range for {self.card.classes} classes")
        if label >= EXACT_FLOAT:
            raise DataError(f"{self.folder}: label {label} cannot be written as float32 without rounding")
        if values.keys() != self.fields.keys():
            raise DataError(f"{self.folder}: sample has the fields {sorted(values)}, the set has {sorted(self.fields)}")
        key = self._count
        if self.layout == "insightface":
            key += 1
            if label < len(self._ends) - 1:
                raise DataError(
                    f"{self.folder}: label {label} after label {len(self._ends) - 1}: samples must come sorted"
                )
            while len(self._ends) <= label:
                self._ends.append(key)
            self._ends[label] = key + 1
        self._writer.write(key, pack_record(label, image, key))
        for name, value in values.items():
            self._add_value(name, key, value)
        self._count += 1
        return key

    def _add_value(self, name: str, key: int, value: Any) -> None:
        if name in self._maps:
            self._maps[name].write(key, pack_record(0, encode_png(np.asarray(value)), key))
        else:
            dtype = np.bool_ if self.fields[name].kind == "flag" else np.float32
            self._values[name].append(np.asarray(value, dtype))

    def _write_ranges(self) -> None:
        """Identity records and the header, as insightface's RecBuilder orders them."""
        count, classes = self._count, int(self.card.classes or 0)
        start = 1
        for label in range(classes):
            end = self._ends[label] if label < len(self._ends) else start
            self._writer.write(count + 1 + label, pack_record([start, end], b"", count + 1 + label))
            start = end
        self._writer.write(0, pack_record([count + 1, count + classes + 1], b"", 0, 1))

    def close(self) -> None:
        """Finish every file. Raises DataError when no sample was added."""
        with self._stack:
            if not self._count:
                raise DataError(f"{self.folder}: no samples were added")
            if self.layout == "insightface":
                self._write_ranges()
            for name, rows in self._values.items():
                with atomic_path(self.folder / f"{name}.npy") as temporary, open(temporary, "wb") as file:
                    np.save(file, np.stack(rows), allow_pickle=False)
            height, width = self.card.size or (0, 0)
            write_property(self.folder / "property", Property(int(self.card.classes or 0), height, width))
            write_card(self.folder, replace(self.card, images=self._count))

    def __enter__(self) -> FaceSetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._stack.__exit__(kind, error, trace)


def write_face_set(
    folder: str | os.PathLike[str],
    samples: Iterable[tuple[bytes, int] | tuple[bytes, int, Mapping[str, Any]]],
    num_classes: int,
    size: tuple[int, int] = (112, 112),
    **options: Any,
) -> int:
    """Write (encoded image, label[, companion values]) samples with FaceSetWriter; returns their number."""
    with FaceSetWriter(folder, num_classes, size, **options) as writer:
        for image, label, *values in samples:
            writer.add(image, label, **(values[0] if values else {}))
    return len(writer)
