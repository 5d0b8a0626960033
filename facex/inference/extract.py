"""Embeddings of whole data sets into files, batch by batch: .npy arrays, or MagFace's text rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from facex.data import open_dataset
from facex.data.dataset import FaceSet, ReadOptions, default_threads
from facex.data.decoding import OnError
from facex.data.flag_lists import flags_of_pictures
from facex.data.sources.files import FileSet, open_files
from facex.errors import DataError
from facex.files import atomic_path
from facex.inference.embed import embed_batch, evaluation_mode
from facex.methods import Embedding, Method
from facex.methods.method import Nets


@dataclass
class Faces:
    """Pictures to embed, and how their rows are called: a path, or a record's key."""

    dataset: FaceSet
    names: Sequence[str]


def open_faces(
    source: str | Path,
    color: str,
    size: tuple[int, int] | None = None,
    on_error: OnError = "raise",
    threads: int | None = None,
) -> Faces:
    """Open a RecordIO folder or .rec, an image folder, or a list (any of `open_dataset`'s, or one path a line).

    Raises DataError or RecordError naming file, line or key.
    """
    path = Path(source)
    plain = _plain_list(path) if path.is_file() and path.suffix != ".rec" else None
    if plain is not None:
        options = ReadOptions(color, size, ("image", "label"), on_error, threads or default_threads())
        root = path.parent if (path.parent / plain[0]).is_file() else Path()
        labels = np.zeros(len(plain), np.int64)
        return Faces(open_files(path, path.parent, [str(root / p) for p in plain], labels, 1, options), plain)
    dataset = open_dataset(path, color=color, size=size, on_error=on_error, threads=threads, allow_ignored=True)
    paths = getattr(dataset, "paths", None)
    return Faces(dataset, paths if paths is not None else [str(key) for key in dataset.about.keys])


def _plain_list(path: Path) -> list[str] | None:
    """The paths of a list without tabs, as written: MagFace's inf_list (the first column) and training list (`path 0
    label 0`, where a path may have spaces); None for a list with tabs, which `open_dataset` reads."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list: {error}") from error
    if not lines:
        raise DataError(f"{path}: the list is empty")
    if "\t" in lines[0]:
        return None
    return [_path_in(line) for line in lines]


def _path_in(line: str) -> str:
    fields = line.rsplit(" ", 3)
    labelled = len(fields) == 4 and all(text.lstrip("-").isdigit() for text in fields[1:])
    return fields[0] if labelled else line.split(" ")[0]


def mask_flags(path: str | Path, faces: Faces, source: str | Path) -> np.ndarray:
    """bool [N]: who wears a mask, from a file (see `flags_of_pictures`); names are those of the rows, or, in a folder
    of pictures, paths below it."""
    names = faces.names
    if isinstance(faces.dataset, FileSet) and Path(source).is_dir():
        names = [os.path.relpath(name, source) for name in names]
    return flags_of_pictures(path, names)


def embeddings(
    method: Method,
    nets: Nets,
    faces: Faces,
    device: torch.device | str,
    batch_size: int,
    flip: bool = False,
    flags: np.ndarray | None = None,
) -> Iterator[Embedding]:
    """Embeddings of all pictures in order, one batch at a time: bounded memory for any number of pictures. flags bool
    [N]: who wears a mask, for methods that ask."""
    dataset = faces.dataset
    if not len(dataset):
        raise DataError(f"{dataset.name}: no pictures to embed")
    with evaluation_mode(method, nets):
        for start in range(0, len(dataset), batch_size):
            indices = np.arange(start, min(start + batch_size, len(dataset)))
            out = dataset.allocate(len(indices))
            dataset.read(indices, out)
            side = None if flags is None else {"flag": torch.from_numpy(flags[indices])}
            yield embed_batch(method, nets, out["image"], dataset.color, device, flip, side=side)


def write_npy(path: str | Path, faces: Faces, batches: Iterator[Embedding]) -> list[Path]:
    """Write features float32 [N, D] to `path` and, beside it, `NAME.magnitude.npy` float32 [N] (the method's quality,
    or the features' lengths) and `NAME.names.txt`. Rows go to the disk as they come; the files appear at the end."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix == ".npy" else path
    targets = [stem.with_suffix(stem.suffix + end) for end in (".npy", ".magnitude.npy", ".names.txt")]
    total, at = len(faces.dataset), 0
    with atomic_path(targets[0]) as temporary:
        features: np.memmap | None = None
        magnitude = np.empty(total, np.float32)
        for batch in batches:
            vector = batch.vector.numpy()
            if features is None:
                shape = (total, vector.shape[1])
                features = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            features[at : at + len(vector)] = vector
            quality = np.linalg.norm(vector, axis=1) if batch.quality is None else batch.quality.numpy()
            magnitude[at : at + len(vector)] = quality
            at += len(vector)
        if features is not None:
            features.flush()
            del features
    with atomic_path(targets[1]) as temporary, open(temporary, "wb") as file:
        np.save(file, magnitude)
    with atomic_path(targets[2]) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in faces.names), encoding="utf-8")
    return targets


def write_rows(path: str | Path, faces: Faces, batches: Iterator[Embedding]) -> Path:
    """Write MagFace's text form: a line a picture, `name v0 v1 ... ` (one space after each, raw values in full)."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        at = 0
        for batch in batches:
            _rows(file, faces.names[at : at + len(batch.vector)], batch.vector.numpy())
            at += len(batch.vector)
    return Path(path)


def _rows(file: TextIO, names: Sequence[str], vectors: np.ndarray) -> None:
    for name, vector in zip(names, vectors, strict=True):
        file.write(f"{name} " + "".join(f"{value!s} " for value in vector) + "\n")
