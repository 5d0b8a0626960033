"""Scores of a face parser on a data set with label maps, or on folders of pictures and maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facex.data import open_dataset
from facex.errors import DataError
from facex_sarface.celeba_masks import find_labelled, read_labelled
from facex_sarface.celeba_pack import fit
from facex_sarface.masking import FIELD
from facex_sarface.parser_loading import LoadedParser
from facex_sarface.parser_scores import Confusion
from facex_sarface.parser_training import check_maps

Progress = Callable[[int, int], None]  # pictures seen, pictures in all
Pairs = Iterator[tuple[Tensor, Tensor, Tensor]]  # pictures uint8 [b, H, W, 3] RGB, maps uint8 [b, H, W], numbers [b]


def evaluate_parser(
    parser: LoadedParser, pairs: Pairs, total: int | None = None, progress: Progress | None = None
) -> Confusion:
    """Count how the parser's label maps agree with the given ones, at the pictures' size; and of the first pictures, how sure it
    is of what it sees under each input.

    Raises DataError for an unknown class in a map.
    """
    counts = Confusion()
    for images, maps, index in pairs:
        check_maps(maps, index)
        counts.add(maps, parser.labels(images, "rgb").cpu())
        counts.confidence = counts.confidence or parser.confidence(images, "rgb")
        if progress is not None:
            progress(counts.pictures, total or counts.pictures)
    return counts


def pairs_of_set(data: str | Path, batch_size: int, size: int | None = None) -> tuple[Pairs, int]:
    """Pictures and label maps of a data set with the field `parsing`, and how many there are."""
    dataset = open_dataset(data, color="rgb", size=size, fields=("image", FIELD), allow_ignored=True)

    def read() -> Pairs:
        for start in range(0, len(dataset), batch_size):
            rows = np.arange(start, min(start + batch_size, len(dataset)))
            fields = dataset.allocate(len(rows))
            dataset.read(rows, fields)
            yield fields["image"], fields[FIELD], torch.from_numpy(rows)

    return read(), len(dataset)


def pairs_of_folders(
    pictures: Path, maps: Path, numbering: str, on_missing: str, size: int | None = None
) -> tuple[Pairs, int]:
    """Pictures and label maps of two folders (see `celeba_masks`), one by one; `size`: brought to that side."""
    labelled, missing = find_labelled(pictures, maps)
    if missing and on_missing != "skip":
        raise DataError(
            f"{missing[0]}: no label map and no masks ({len(missing)} such pictures): add them, or --on-missing skip"
        )

    def read() -> Pairs:
        for number, one in enumerate(labelled):
            image, labels = read_labelled(one, numbering)
            try:
                image, labels = fit(image, labels, size or image.shape[0], align=False)
            except DataError as error:
                raise DataError(f"{one.picture}: {error}") from error
            yield torch.from_numpy(image)[None], torch.from_numpy(labels)[None], torch.tensor([number])

    return read(), len(labelled)
