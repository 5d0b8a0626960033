"""RecordIO files by key or in sequence: `RecordFile`, on the memory-mapped reader of csrc/recordio."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from facex.data.decoding import decode_payload
from facex.data.imageio import MAX_PIXELS, ImageError
from facex.data.native import native
from facex.errors import RecordError

Key = int | str
HEADER = struct.Struct("<IfQQ")  # flag, label, id, id2


class Header(NamedTuple):
    """IRHeader of an image record. `label` float32 [n]: one value when flag is 0, else `flag` values."""

    flag: int
    label: np.ndarray
    id: int
    id2: int


class Entry(NamedTuple):
    """A record met in sequence."""

    number: int  # 0, 1, ... in file order
    offset: int
    data: bytes


@dataclass(frozen=True)
class HeaderColumns:
    """The headers of n records as columns, [n] each; rows named in `failures` are not filled."""

    flag: np.ndarray  # uint32
    label0: np.ndarray  # float32: the label, or the first of several
    label1: np.ndarray  # float32, NaN where flag < 2
    id: np.ndarray  # uint64
    id2: np.ndarray  # uint64
    payload: np.ndarray  # int64: bytes of the payload, -1 in a bad row
    failures: list[tuple[int, str]]  # (row, what is wrong)


def unpack(record: bytes, name: str = "record") -> tuple[Header, bytes]:
    """Split an image record into header and payload. Raises RecordError naming `name` when it is too short for
    either."""
    if len(record) < HEADER.size:
        raise RecordError(f"{name}: record shorter than its 24-byte header: {len(record)} bytes")
    flag, label, id_, id2 = HEADER.unpack_from(record)
    end = HEADER.size + 4 * flag
    if end > len(record):
        raise RecordError(
            f"{name}: label runs past the record: flag says {flag} labels, the record has {len(record)} bytes"
        )
    labels = np.frombuffer(record, "<f4", flag, HEADER.size).copy() if flag else np.array([label], np.float32)
    return Header(flag, labels, id_, id2), record[end:]


def read_sequence(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Every record of a `.rec` in file order, without an index. An error comes after the good records before it."""
    return _walk(native().RecordReader(os.fspath(path)))


def _walk(reader: Any) -> Iterator[Entry]:
    offset, number = 0, 0
    while offset < reader.size:
        data, following = reader.read(offset, f"record {number} at offset {offset}")
        yield Entry(number, offset, data)
        offset, number = following, number + 1


class RecordFile:
    """A `.rec` file with its index. Reads are positional: safe from threads and after fork, and the object pickles by
    path.

    `index`: path of the `.idx`; "auto" = the one beside the file if there is one, otherwise (and with None) the record
    headers are walked once and the keys are the running numbers 0, 1, ... `key_type=str` for textual keys. With
    `check_index` every offset of the index is compared with the file's size at once; without it, when it is read.

    Raises RecordError naming file, key and offset: missing file, bad index, truncated, bad magic, bad continuation
    flag.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        index: str | os.PathLike[str] | Literal["auto"] | None = "auto",
        *,
        key_type: type[int] | type[str] = int,
        check_index: bool = True,
    ) -> None:
        self.path = Path(path)
        self._native = native().RecordReader(os.fspath(self.path))
        beside = self.path.with_suffix(".idx")
        if index == "auto":
            index = beside if beside.is_file() else None
        self.index_path = Path(index) if index is not None else None
        self._text: dict[str, int] | None = None  # textual keys: position by key
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self._keys: np.ndarray | list[str]
        if self.index_path is None:
            self._offsets: np.ndarray = self._native.scan()
            self._keys = np.arange(len(self._offsets), dtype=np.int64)
            return
        self._keys, self._offsets = native().read_index(os.fspath(self.index_path), key_type is str)
        if key_type is str:
            self._text = {key: i for i, key in enumerate(self._keys)}
        if check_index:
            self._check_offsets()

    def _check_offsets(self) -> None:
        """Refuse an index that points outside the file. (Multiples of 4 and signs are checked while it is parsed.)"""
        past = np.flatnonzero(self._offsets >= self.size)
        if past.size:
            key, offset = self._keys[past[0]], self._offsets[past[0]]
            raise RecordError(
                f"{self.index_path}: bad index: key {key} at offset {offset} lies past end of file {self.path.name}"
                f" ({self.size} bytes; {past.size} such keys): the index belongs to another file, or the .rec is"
                " incomplete"
            )

    # -- what there is ------------------------------------------------------------------------------------------------
    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return int(self._native.size)

    @property
    def keys(self) -> np.ndarray | list[str]:
        """Keys in the order of the index: int64 [n], or a list of str."""
        return self._keys

    @property
    def offsets(self) -> np.ndarray:
        """Offset of each key's record, int64 [n], in the order of `keys`."""
        return self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, key: object) -> bool:
        return bool(self.positions([key])[0] >= 0)

    def positions(self, keys: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Places of `keys` in the index, int64, -1 where there is no such key."""
        if self._text is not None:
            return np.array([self._text.get(key, -1) for key in keys], np.int64)
        if self._sorted is None:
            own = np.asarray(self._keys)
            order = np.arange(len(own)) if (np.diff(own) > 0).all() else np.argsort(own, kind="stable")
            self._sorted = own[order], order
        known, order = self._sorted
        wanted = np.asarray(keys, np.int64)
        if not len(known):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[at] == wanted, order[at], -1)

    def offset(self, key: Key) -> int:
        """Offset of a key's record; RecordError when the index has no such key."""
        position = int(self.positions([key])[0])
        if position < 0:
            raise RecordError(f"{self.index_path or self.path}: no key {key!r} in the index")
        return int(self._offsets[position])

    # -- reading ------------------------------------------------------------------------------------------------------
    def read(self, key: Key) -> bytes:
        """The whole record of a key, joined from its parts."""
        offset = self.offset(key)
        return bytes(self._native.read(offset, f"key {key} at offset {offset}")[0])

    def unpack(self, key: Key) -> tuple[Header, bytes]:
        """Header and payload of a key's record."""
        return unpack(self.read(key), f"{self.path}: key {key} at offset {self.offset(key)}")

    def image(self, key: Key, *, color: str = "rgb", max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The picture of a key's record, uint8 [H, W, 3] in `color` order, decoded strictly."""
        _, payload = self.unpack(key)
        try:
            return decode_payload(payload, color=color, max_pixels=max_pixels)
        except ImageError as error:
            raise RecordError(f"{self.path}: key {key} at offset {self.offset(key)}: cannot decode: {error}") from error

    def __iter__(self) -> Iterator[Entry]:
        """Every record in file order, without the index. An error comes after the good records before it."""
        return _walk(self._native)

    def parts(self, key: Key) -> list[tuple[int, int]]:
        """(continuation flag, length) of each part of a key's record."""
        return list(self._native.parts(self.offset(key), f"key {key}"))

    def headers(self, positions: np.ndarray | None = None, threads: int = 1) -> HeaderColumns:
        """Headers of many records (all, or those at `positions` of the index) without decoding anything."""
        offsets = self._offsets if positions is None else self._offsets[positions]
        return HeaderColumns(*self._native.headers(np.ascontiguousarray(offsets), threads))

    def decode(
        self, positions: np.ndarray, out: np.ndarray, bgr: bool, lenient: bool, max_pixels: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
        """Decode ordinary JPEG records straight into `out`, uint8 [b, H, W, 3]; what is left to do is in the status
        (`facex.data.decoding.Status`)."""
        offsets = np.ascontiguousarray(self._offsets[positions])
        return self._native.decode(offsets, out, bgr, lenient, max_pixels, threads)

    def payload_at(self, position: int) -> bytes:
        """Payload of the record at a place of the index."""
        return self.unpack(self._keys[position] if self._text is not None else int(self._keys[position]))[1]

    def name_at(self, position: int) -> str:
        """How messages call the record at a place of the index: file, key and offset."""
        return f"{self.path}: key {self._keys[position]} at offset {self._offsets[position]}"
