"""Face data sets: the protocol that the loader reads, the base of every source, and `open_dataset`."""

from __future__ import annotations

import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from facex.data.card import Card
from facex.data.companions import Companion, open_companions
from facex.data.decoding import Decoder, NativeDecode, OnError
from facex.data.imageio import MAX_PIXELS
from facex.errors import ConfigError, DataError
from facex.methods.batch import Field

if TYPE_CHECKING:
    from facex.data.sources.synthetic import SyntheticSet

IGNORED = -1  # label of a row that neither costs nor counts


class DataWarning(UserWarning):
    """Something about the data that is usable and probably not meant."""


@runtime_checkable
class FaceDataset(Protocol):
    """What training reads. Samples are numbered 0..len-1; `read` may be called from several threads at once."""

    @property
    def name(self) -> str: ...

    @property
    def color(self) -> str:
        """Channel order of the image field, "rgb" or "bgr"."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image field."""
        ...

    @property
    def num_classes(self) -> int: ...

    @property
    def kinds(self) -> Mapping[str, Field]: ...

    def __len__(self) -> int: ...

    def labels(self) -> np.ndarray:
        """int64 [N], without decoding anything."""
        ...

    def read(self, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        """Fill the rows of `out` (from `allocate`) with the samples `indices`, int64 [b]."""
        ...

    def allocate(self, b: int, pin: bool) -> dict[str, Tensor]:
        """Buffers for b samples on the host, page-locked with `pin`."""
        ...


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read; see `open_dataset`."""

    color: str = "rgb"
    size: tuple[int, int] | None = None
    fields: tuple[str, ...] = ("image", "label")
    on_error: OnError = "raise"
    threads: int = 1
    num_classes: int | None = None
    allow_ignored: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Description:
    """What a source knows about its set before a picture is decoded. `rows` are the sample numbers in the whole set
    (companion files count by them), `keys` their record keys or the same numbers."""

    name: str
    folder: Path
    labels: np.ndarray  # int64 [N]
    num_classes: int
    size: tuple[int, int]
    rows: np.ndarray  # int64 [N]
    keys: np.ndarray  # int64 [N]
    total: int  # samples of the whole set, bad ones included
    all_keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # int64 [total]
    card: Card | None = None


class FaceSet(ABC):
    """Base of the sources: decoding, companion fields and the error policy. A source says how to get at the
    pictures."""

    def __init__(self, about: Description, options: ReadOptions) -> None:
        self.about, self.options = about, options
        size = options.size or about.size
        self.decoder = Decoder(
            *size,
            color=options.color,
            stored=about.card.color if about.card else "rgb",
            resize=options.size is not None,
            on_error=options.on_error,
            max_pixels=options.max_pixels,
            threads=options.threads,
        )
        extra = [name for name in options.fields if name not in ("image", "label")]
        self._companions: dict[str, Companion] = open_companions(
            about.folder, about.card, extra, about.all_keys, size, options.threads
        )
        self.kinds: dict[str, Field] = {"image": Field("image"), "label": Field("label")}
        self.kinds |= {name: companion.field for name, companion in self._companions.items()}
        self.error_count = 0
        """Samples that could not be used so far: dropped when the set was opened, or replaced while reading."""
        self.errors: list[str] = []
        """The first of their messages."""
        self._lock = threading.Lock()

    # -- what a source says -------------------------------------------------------------------------------------------
    @abstractmethod
    def _decode(self, indices: np.ndarray) -> NativeDecode:
        """The C++ decoder for these samples."""

    @abstractmethod
    def _payload(self, index: int) -> bytes:
        """The encoded picture of a sample."""

    @abstractmethod
    def _name(self, index: int) -> str:
        """How messages call a sample: file, key, offset."""

    # -- FaceDataset --------------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """The folder or file that was opened."""
        return self.about.name

    @property
    def color(self) -> str:
        """Channel order of the image field."""
        return self.decoder.color

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image field."""
        return self.decoder.height, self.decoder.width

    @property
    def num_classes(self) -> int:
        """Classes of the set, labels are 0..num_classes-1."""
        return self.about.num_classes

    def __len__(self) -> int:
        return len(self.about.labels)

    def labels(self) -> np.ndarray:
        """int64 [N], one label a sample, -1 = ignored. Do not write into it."""
        return self.about.labels

    def allocate(self, b: int, pin: bool = False) -> dict[str, Tensor]:
        """Buffers for b samples: image uint8 [b, H, W, 3], label int64 [b], and the companion fields."""
        out = {
            "image": torch.empty((b, *self.size, 3), dtype=torch.uint8, pin_memory=pin),
            "label": torch.empty(b, dtype=torch.int64, pin_memory=pin),
        }
        return out | {name: companion.allocate(b, pin) for name, companion in self._companions.items()}

    def read(self, indices: np.ndarray | Sequence[int], out: dict[str, Tensor]) -> None:
        """Fill `out` with the samples `indices`. Raises RecordError naming file and key for one that cannot be decoded;
        with on_error="skip" its row is grey with label -1, with "grey" grey with its label, and it is counted."""
        indices = np.asarray(indices, np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"{self.name}: sample numbers must be in 0..{len(self) - 1}")
        out["label"].numpy()[...] = self.about.labels[indices]
        sizes, bad = self.decoder.fill(
            out["image"].numpy(),
            self._decode(indices),
            lambda row: self._payload(int(indices[row])),
            lambda row: self._name(int(indices[row])),
        )
        for row, message in bad:
            self.count_error(message)
            if self.options.on_error == "skip":
                out["label"][row] = IGNORED
            sizes[row] = self.about.size  # its companions keep their scale
        for name, companion in self._companions.items():
            companion.read(self.about.rows[indices], self.about.keys[indices], sizes, out[name])

    def count_error(self, message: str) -> None:
        """Count a sample that could not be used; its message is kept while there are few."""
        with self._lock:
            self.error_count += 1
            if len(self.errors) < 20:
                self.errors.append(message)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        height, width = self.size
        about = f"{len(self)} images, {self.num_classes} classes, {width}x{height} {self.color}"
        return f"{type(self).__name__}({self.name}: {about})"


def default_threads() -> int:
    """The cores that this process may use, shared among the ranks of this machine (LOCAL_SIZE is DeepSpeed's name)."""
    ranks = int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, len(os.sched_getaffinity(0)) // max(ranks, 1))


def open_dataset(
    path: str | os.PathLike[str],
    *,
    color: str | None = None,
    size: tuple[int, int] | int | None = None,
    fields: Iterable[str] = ("image", "label"),
    on_error: OnError = "raise",
    threads: int | None = None,
    num_classes: int | None = None,
    allow_ignored: bool = False,
    root: str | os.PathLike[str] | None = None,
) -> FaceSet | SyntheticSet:
    """Open a training set: a RecordIO folder or `.rec` file, an image folder (a class a subfolder), a list file, or
    `synthetic:CLASSES[xIMAGES]` (noise, for measuring speed).

    `color`: channel order to deliver, "rgb" (default) or "bgr". `size`: (height, width) to resize every image to;
    unset, an image of another size than the set's is an error. `fields`: image and label, and companion fields by name
    (landmarks, landmarks5, landmarks68, parsing, occlusion or mask, flags or flag, or what facex.json names).
    `on_error`: see `FaceSet.read`. `num_classes`: replaces what the set says of itself. `allow_ignored`: accept the
    label -1 (rows that neither cost nor count). `root`: folder of a list's relative paths.

    Raises RecordError or DataError naming file, line or key; ConfigError for an option that cannot be.
    """
    from facex.data.sources.imagefolder import open_image_folder
    from facex.data.sources.listfile import open_list
    from facex.data.sources.recordset import find_records, open_record_set
    from facex.data.sources.synthetic import PREFIX, open_synthetic

    if color not in (None, "rgb", "bgr"):
        raise ConfigError(f"color is {color!r}, expected 'rgb' or 'bgr'")
    if on_error not in ("raise", "skip", "grey"):
        raise ConfigError(f"on_error is {on_error!r}, expected 'raise', 'skip' or 'grey'")
    options = ReadOptions(
        color or "rgb",
        (size, size) if isinstance(size, int) else tuple(size) if size is not None else None,  # type: ignore[arg-type]
        tuple(fields),
        on_error,
        threads or default_threads(),
        num_classes,
        allow_ignored,
    )
    if os.fspath(path).startswith(PREFIX):
        return open_synthetic(os.fspath(path), options)
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        records = find_records(path)
        return open_record_set(records, options) if records else open_image_folder(path, options)
    if path.suffix == ".rec":
        return open_record_set(path, options)
    return open_list(path, options, Path(root) if root is not None else None)


def warn(message: str) -> None:
    """Say something about the data as a DataWarning."""
    warnings.warn(message, DataWarning, stacklevel=3)


def with_class_count(about: Description, options: ReadOptions) -> Description:
    """The description with the class count that the caller insists on."""
    return replace(about, num_classes=options.num_classes) if options.num_classes else about
