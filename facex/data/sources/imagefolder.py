"""Image folders: a class is a subfolder, classes are numbered in the order of their sorted names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from facex.data.dataset import ReadOptions
from facex.data.sources.files import FileSet, open_files
from facex.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def list_image_folder(folder: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Paths (class by class, sorted inside a class, subfolders included), labels int64 [N], class names.

    Raises DataError: no subfolders, or no pictures in any of them. A subfolder without pictures is an error too: it
    would be a class that is never seen.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: neither a .rec file nor subfolders with images are in this folder")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(
            os.path.join(base, file)
            for base, _, files in os.walk(folder / name)
            for file in files
            if os.path.splitext(file)[1].lower() in SUFFIXES
        )
        if not found:
            raise DataError(f"{folder / name}: no images ({', '.join(sorted(SUFFIXES))}): remove the folder or fill it")
        paths += found
        labels += [label] * len(found)
    return paths, np.array(labels, np.int64), names


def open_image_folder(folder: Path, options: ReadOptions) -> FileSet:
    """Open an image folder as a training set."""
    paths, labels, names = list_image_folder(folder)
    return open_files(folder, folder, paths, labels, len(names), options)
