"""RecordIO training sets in every layout met in practice (insightface, face2rec2, im2rec, MSML's, CVLface's, ...)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from facex.data.card import Card, read_card
from facex.data.companions import available
from facex.data.dataset import Description, FaceSet, ReadOptions, warn
from facex.data.decoding import NativeDecode
from facex.data.imageio import ImageError, image_info
from facex.data.label_cache import read_labels
from facex.data.labels import check_labels, count_classes
from facex.data.property import Property, read_property
from facex.data.recordio import RecordFile
from facex.errors import RecordError

EXACT_FLOAT = 1 << 24  # below this float32 holds every whole number; this value may be a rounded 2^24 + 1


@dataclass(frozen=True)
class Layout:
    """Where the images of a .rec are: places in its index; the header record's labels where there is one."""

    positions: np.ndarray  # int64 [N]
    header: tuple[float, float] | None

    @property
    def classes(self) -> int | None:
        """Classes as the header says: identity records n+1..n+K, or K itself (MSML's converter); None if inexact."""
        if self.header is None or not np.isfinite(self.header[1]):
            return None
        first, second = self.header
        if max(first, second) >= EXACT_FLOAT or second < 1:
            return None
        return int(second - first) if second > first else int(second)


def find_records(folder: Path) -> Path | None:
    """The .rec of a folder: train.rec, or the only one that is no companion; None where there is none."""
    if (folder / "train.rec").is_file():
        return folder / "train.rec"
    companions = {path for path, _ in available(folder, None).values()}
    found = sorted(path for path in folder.glob("*.rec") if path not in companions)
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise RecordError(f"{folder}: several record files ({names}): name the one to open")
    return found[0] if found else None


def image_key_end(label: float, is_image: Callable[[int], bool]) -> int:
    """One more than the last image key. From 2^24 on float32 may have rounded header 0's count, so the records
    decide."""
    end = int(label)
    if label < EXACT_FLOAT:
        return end
    step = int(np.spacing(np.float32(label)))
    key = end - step
    while key < end + step and is_image(key):
        key += 1
    return key


def find_layout(file: RecordFile) -> Layout:
    """Find the images: key 0 with several labels is a header that says images 1..label[0]-1; otherwise every key is an
    image.

    Without an index the keys are running numbers, and records of several labels without a payload are no images.
    """
    if not len(file):
        raise RecordError(f"{file.path}: no records")
    everything = np.arange(len(file), dtype=np.int64)
    if file.index_path is None:
        return _layout_without_index(file, everything)
    zero = file.positions([0])
    if zero[0] < 0:
        return Layout(everything, None)
    head = file.headers(zero)
    if head.failures:
        raise RecordError(f"{file.name_at(int(zero[0]))}: {head.failures[0][1]}")
    if head.flag[0] == 0:
        return Layout(everything, None)
    header = float(head.label0[0]), float(head.label1[0])
    return Layout(_header_images(file, header[0]), header)


def _layout_without_index(file: RecordFile, everything: np.ndarray) -> Layout:
    columns = file.headers(everything)
    images = (columns.payload != 0) | (columns.flag == 0)
    if columns.flag[0] > 0 and (columns.payload[0] == 0 or columns.label0[0] == images.sum()):
        header = float(columns.label0[0]), float(columns.label1[0])
        return Layout(_header_images(file, header[0]), header)
    return Layout(everything[images], None)


def _header_images(file: RecordFile, label: float) -> np.ndarray:
    where = f"{file.path}: key 0 at offset {file.offset(0)}"

    def is_image(key: int) -> bool:
        position = file.positions([key])
        return bool(position[0] >= 0 and file.headers(position).payload[0] > 0)

    if not np.isfinite(label) or label != np.floor(label) or label <= 1 or label > 2**62:
        raise RecordError(
            f"{where}: header 0 gives no images: its first label is {label:g}, one more than the last image key"
        )
    end = image_key_end(label, is_image)
    if end - 1 > len(file):  # before anything of that size is allocated
        last = int(np.max(np.asarray(file.keys)))
        raise RecordError(f"{where}: header 0 says images 1..{end - 1}, the index has {len(file)} keys up to {last}")
    positions = file.positions(np.arange(1, end, dtype=np.int64))
    if (positions < 0).any():
        missing = 1 + int(np.flatnonzero(positions < 0)[0])
        raise RecordError(f"{where}: header 0 says images 1..{end - 1}, the index has no key {missing}")
    for key in (1, end - 1):
        if not is_image(key):
            name = file.name_at(int(file.positions([key])[0]))
            raise RecordError(
                f"{name}: header 0 says images 1..{end - 1}, but this record is damaged or has no payload"
            )
    return positions


class RecordSet(FaceSet):
    """A training set in a .rec file."""

    def __init__(self, file: RecordFile, positions: np.ndarray, about: Description, options: ReadOptions) -> None:
        super().__init__(about, options)
        self.file, self.positions = file, positions

    def _decode(self, indices: np.ndarray) -> NativeDecode:
        return partial(self.file.decode, self.positions[indices])

    def _payload(self, index: int) -> bytes:
        return self.file.payload_at(int(self.positions[index]))

    def _name(self, index: int) -> str:
        return self.file.name_at(int(self.positions[index]))


def open_record_set(path: Path, options: ReadOptions) -> RecordSet:
    """Open a .rec as a training set: find the images, read and check every label, compare the class counts."""
    file = RecordFile(path)
    layout = find_layout(file)
    card = read_card(path.parent)
    stated = _stated(path, card)
    read, failures = read_labels(file, layout.positions, options.threads)
    good, dropped = _usable(file, layout, failures, options)
    positions = layout.positions[good]
    name = lambda row: file.name_at(int(positions[row]))  # noqa: E731
    classes = options.num_classes or (stated.classes if stated else None)
    labels = check_labels(read[good], classes, name, options.allow_ignored)
    if classes is None:
        classes = (
            layout.classes if layout.classes and layout.classes >= count_classes(labels) else count_classes(labels)
        )
    elif options.num_classes is None:
        _compare_classes(path, classes, layout, labels, complete=not dropped)
    size = (stated.height, stated.width) if stated else _first_size(file, positions, name)
    keys = np.asarray(file.keys, np.int64)
    about = Description(
        name=str(path.parent if path.stem == "train" else path),
        folder=path.parent,
        labels=labels,
        num_classes=classes,
        size=size,
        rows=np.flatnonzero(good),
        keys=keys[positions],
        total=len(layout.positions),
        all_keys=keys[layout.positions],
        card=card,
    )
    result = RecordSet(file, positions, about, options)
    for message in dropped:
        result.count_error(message)
    return result


def _stated(path: Path, card: Card | None) -> Property | None:
    """Classes and size as `property` and the card say them; they must not disagree."""
    file = path.parent / "property"
    value = read_property(file) if file.is_file() else None
    if card is not None and card.size is not None and card.classes is not None:
        said = Property(card.classes, *card.size)
        if value is not None and value != said:
            raise RecordError(f"{file}: says {value}, facex.json beside it says {said}: one of them is wrong")
        value = said
    if value is None:
        warn(f"{path.parent}: no property file: classes are counted from the labels, the size is the first image's")
    return value


def _usable(
    file: RecordFile, layout: Layout, failures: list[tuple[int, str]], options: ReadOptions
) -> tuple[np.ndarray, list[str]]:
    """Which images have a readable record. A malformed one is an error, or dropped and counted where that was asked
    for."""
    good = np.ones(len(layout.positions), bool)
    messages = [f"{file.name_at(int(layout.positions[row]))}: {problem}" for row, problem in failures]
    if messages and options.on_error == "raise":
        raise RecordError(messages[0])
    good[[row for row, _ in failures]] = False
    if not good.any():
        raise RecordError(f"{file.path}: no records: all {len(good)} images are malformed, first: {messages[0]}")
    return good, messages


def _compare_classes(path: Path, classes: int, layout: Layout, labels: np.ndarray, complete: bool) -> None:
    """Refuse a class count that the records contradict. (Labels out of range have been refused before.)"""
    if layout.classes is not None and layout.classes != classes:
        raise RecordError(
            f"{path}: class count mismatch: property says {classes}, header 0 says {layout.classes}:"
            " correct the property file"
        )
    found = count_classes(labels)
    if layout.classes is None and complete and found != classes:
        raise RecordError(
            f"{path}: class count mismatch: property says {classes}, the labels go up to {found - 1}: correct the"
            f" property file, or open the data with num_classes={classes} if the last classes are meant to be empty"
        )


def _first_size(file: RecordFile, positions: np.ndarray, name: Callable[[int], str]) -> tuple[int, int]:
    try:
        info = image_info(file.payload_at(int(positions[0])))
    except ImageError as error:
        raise RecordError(f"{name(0)}: cannot decode: {error}") from error
    return info.height, info.width
