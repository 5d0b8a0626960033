"""1:1 verification sets in insightface's `.bin` form: a pickle of (2n encoded images, n booleans).

Source of the format: insightface recognition/arcface_torch/eval/verification.py, `load_bin`. The pickle is read by
`facex.data.safe_pickle`, which runs nothing that the file names.
"""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facex.data.decoding import decode_payload
from facex.data.imageio import GREY, ImageError, check_end, resize_short
from facex.data.pickle_values import Array, BadPickle, UnsafePickle, describe
from facex.data.safe_pickle import SafeUnpickler, TruncatedPickle, UnsupportedProtocol
from facex.errors import VerificationSetError
from facex.files import atomic_path

OnError = Literal["raise", "grey"]
# First bytes of a pickle that holds a list or a tuple: PROTO, MARK, EMPTY_LIST, EMPTY_TUPLE, EMPTY_DICT.
_FIRST = b"\x80(])}"


@dataclass
class VerificationSet:
    """Pairs of encoded faces. `entries` has 2n encoded images (left, right, left, right, ...), `issame` bool [n]; `flags` bool
    [2n], where a set has them: which images show a mask."""

    entries: list[bytes]
    issame: np.ndarray
    name: str
    path: Path | None = None
    flags: np.ndarray | None = None

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.issame)

    def distinct(self) -> tuple[VerificationSet, np.ndarray] | None:
        """Where a picture may be in several pairs: the pictures without repeats, as a set without pairs, and the place of
        each entry among them, int64 [2n]. None: every entry is a picture of its own."""
        return None

    def decode(
        self,
        color: Literal["rgb", "bgr"] = "rgb",
        size: int | None = 112,
        on_error: OnError = "raise",
        start: int = 0,
        stop: int | None = None,
    ) -> np.ndarray:
        """Images `start` to `stop` as uint8 [m, H, W, 3], values 0..255, channels in `color` order, EXIF ignored.

        Images whose width is not `size` are resized to a short side of `size`, bicubic, as insightface does; with
        `size` None nothing is resized. `on_error` "grey" puts a grey image in the place of one that does not decode.
        Raises VerificationSetError: 'cannot decode entry K: ...', or if the images differ in shape.
        """
        stop = len(self.entries) if stop is None else min(stop, len(self.entries))
        out: np.ndarray | None = None
        for i in range(start, stop):
            image = self._image(i, size, on_error, None if out is None else out.shape[1:3])
            if out is None:
                out = np.empty((stop - start, *image.shape), np.uint8)
            if image.shape != out.shape[1:]:
                raise VerificationSetError(
                    f"{self._where()}: entry {i} is {image.shape[1]}x{image.shape[0]} and entry {start} is"
                    f" {out.shape[2]}x{out.shape[1]}; all faces of a set must have one shape"
                )
            out[i - start] = image if color == "rgb" else image[..., ::-1]
        return np.empty((0, size or 0, size or 0, 3), np.uint8) if out is None else out

    def _image(self, i: int, size: int | None, on_error: OnError, shape: Sequence[int] | None) -> np.ndarray:
        try:
            check_end(self.entries[i])
            image = decode_payload(self.entries[i])
        except ImageError as error:
            if on_error == "grey":
                height, width = shape or (size or 112, size or 112)
                return np.full((height, width, 3), GREY, np.uint8)
            raise VerificationSetError(
                f"{self._where()}: cannot decode entry {i}: {error} (on_error='grey' replaces such images)"
            ) from None
        return image if size is None or image.shape[1] == size else resize_short(image, size)

    def _where(self) -> str:
        return str(self.path or self.name)


def load_bin(path: str | Path) -> VerificationSet:
    """Read a `.bin` file without running anything that it names.

    Every form that insightface, Python 2 and 3, NumPy 1 and 2 have written is read; bytes after the first pickle are
    refused. Raises VerificationSetError: 'empty file', 'not a pickle', 'truncated pickle', 'unsafe pickle content'
    (naming the global or opcode), 'unsupported pickle protocol N', 'wrong structure' (saying what was found),
    'N images for M pairs', 'no pairs', 'trailing data'.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe that would block
            raise VerificationSetError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            if not path.stat().st_size:
                raise VerificationSetError(f"{path}: empty file; download or write it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                value = _read(path, data)
    except OSError as error:
        raise VerificationSetError(f"{path}: cannot be read: {error.strerror or error}") from error
    entries, issame = _pairs(path, value)
    return VerificationSet(entries, issame, path.stem, path, read_flags(path.with_suffix(".flags.npy"), len(entries)))


def read_flags(path: Path, images: int) -> np.ndarray | None:
    """The mask flags of a set beside its `.bin` file (NAME.flags.npy, 0 or 1 an image), None where there are none.

    Raises VerificationSetError: no array of numbers, another count, a value that is neither 0 nor 1.
    """
    if not path.is_file():
        return None
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise VerificationSetError(f"{path}: not a .npy array: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.shape != (images,):
        raise VerificationSetError(
            f"{path}: {getattr(values, 'shape', '?')} flags for {images} images; one an image is wanted"
        )
    if not np.isin(values, (0, 1)).all():
        raise VerificationSetError(
            f"{path}: a flag is 0 (holistic) or 1 (masked), not {values[~np.isin(values, (0, 1))][0]}"
        )
    return values.astype(bool)


def _read(path: Path, data: mmap.mmap) -> Any:
    reader = SafeUnpickler(data)
    plausible = data[0] in _FIRST  # anything else is a pickle only of what is no verification set
    try:
        value = reader.load()
    except UnsafePickle as error:
        raise VerificationSetError(
            f"{path}: unsafe pickle content at offset {reader.position}: {error}. facex does not run what a file names;"
            " if you trust it, write it again with facex.data.verification.write_bin"
        ) from None
    except UnsupportedProtocol as error:
        raise VerificationSetError(f"{path}: {error}") from None
    except TruncatedPickle as error:
        what = "truncated pickle" if plausible else "not a pickle"
        raise VerificationSetError(f"{path}: {what}: {error}; download or write the file again") from None
    except BadPickle as error:
        what = "damaged pickle" if plausible and data[0] == 0x80 else "not a pickle"
        raise VerificationSetError(f"{path}: {what} at offset {reader.position}: {error}") from None
    if reader.position != len(data):
        raise VerificationSetError(
            f"{path}: trailing data: the pickle ends at offset {reader.position}, the file has {len(data)} bytes"
        )
    return value


def _pairs(path: Path, value: Any) -> tuple[list[bytes], np.ndarray]:
    """Check that `value` is (2n encoded images, n booleans)."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise _wrong(path, f"a pair (images, labels) is wanted, {describe(value)} was found")
    images, labels = value
    if not isinstance(images, (tuple, list)):
        raise _wrong(path, f"a list of encoded images is wanted first, {describe(images)} was found")
    entries = [_entry(path, i, image) for i, image in enumerate(images)]
    issame = _labels(path, labels)
    if len(entries) != 2 * len(issame):
        raise VerificationSetError(
            f"{path}: {len(entries)} images for {len(issame)} pairs; two images a pair are wanted"
        )
    if not len(issame):
        raise VerificationSetError(f"{path}: no pairs in the file")
    return entries, issame


def _entry(path: Path, i: int, image: Any) -> bytes:
    if isinstance(image, Array) and image.shape is not None and len(image.shape) == 1 and image.code == "u1":
        return image.data
    if isinstance(image, bytes):
        return image
    raise _wrong(path, f"entry {i} is {describe(image)}, not the bytes of an encoded image")


def _labels(path: Path, labels: Any) -> np.ndarray:
    if isinstance(labels, Array):
        if labels.shape is None or len(labels.shape) != 1:
            raise _wrong(path, f"the labels are {describe(labels)}, not one row of booleans")
        labels = list(labels.data)
    if not isinstance(labels, (tuple, list)):
        raise _wrong(path, f"a list of booleans is wanted second, {describe(labels)} was found")
    for i, label in enumerate(labels):
        if not isinstance(label, (bool, int)) or label not in (0, 1):
            raise _wrong(path, f"the label of pair {i} is {describe(label)}, not a boolean")
    return np.array(labels, bool)


def _wrong(path: Path, what: str) -> VerificationSetError:
    return VerificationSetError(f"{path}: wrong structure: {what}")


def write_bin(
    path: str | Path, entries: Iterable[bytes], issame: Iterable[bool], flags: np.ndarray | None = None
) -> None:
    """Write a `.bin` that insightface reads: pickle protocol 4 of (list of bytes, list of bool), all of it or nothing.
    flags bool [2n]: which images show a mask, written beside it.

    Raises VerificationSetError if the counts do not fit.
    """
    images, labels = [bytes(e) for e in entries], [bool(s) for s in issame]
    if len(images) != 2 * len(labels) or not labels:
        raise VerificationSetError(f"{path}: {len(images)} images for {len(labels)} pairs; nothing was written")
    if flags is not None:
        if flags.shape != (len(images),):
            raise VerificationSetError(f"{path}: flags of shape {list(flags.shape)} for {len(images)} images")
        write_flags(path, flags)  # first, so that no set stands there without its flags
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump((images, labels), file, protocol=4)


def write_flags(path: str | Path, flags: np.ndarray) -> Path:
    """Write the mask flags bool [2n] of the `.bin` file `path` beside it; where they are."""
    target = Path(path).with_suffix(".flags.npy")
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        np.save(file, flags.astype(np.uint8), allow_pickle=False)
    return target
