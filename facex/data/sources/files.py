"""A face set of picture files, as image folders and lists give it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from facex.data.card import read_card
from facex.data.dataset import Description, FaceSet, ReadOptions
from facex.data.decoding import NativeDecode
from facex.data.imageio import ImageError, image_info
from facex.data.native import native
from facex.errors import DataError


class FileSet(FaceSet):
    """Picture files with labels; sample i is `paths[i]`."""

    def __init__(self, paths: Sequence[str], about: Description, options: ReadOptions) -> None:
        super().__init__(about, options)
        self.paths = paths

    def _decode(self, indices: np.ndarray) -> NativeDecode:
        return partial(native().decode_files, [self.paths[i] for i in indices])

    def _payload(self, index: int) -> bytes:
        return read_picture(self.paths[index])

    def _name(self, index: int) -> str:
        return self.paths[index]


def read_picture(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture file; DataError when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error


def open_files(
    source: Path, folder: Path, paths: Sequence[str], labels: np.ndarray, classes: int, options: ReadOptions
) -> FileSet:
    """A FileSet; the size is the card's or the first picture's."""
    card = read_card(folder)
    if card is not None and card.size is not None:
        size = card.size
    else:
        try:
            info = image_info(read_picture(paths[0]))
        except ImageError as error:
            raise DataError(f"{paths[0]}: cannot decode: {error}") from error
        size = info.height, info.width
    rows = np.arange(len(paths), dtype=np.int64)
    about = Description(
        name=str(source),
        folder=folder,
        labels=labels,
        num_classes=options.num_classes or classes,
        size=size,
        rows=rows,
        keys=rows,
        total=len(rows),
        all_keys=rows,
        card=card,
    )
    return FileSet(paths, about, options)
