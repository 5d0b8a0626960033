"""List files: MagFace's (`path 0 label 0`), insightface's `.lst` (aligned, path, label) and im2rec's (index, labels,
path)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from facex.data.dataset import ReadOptions
from facex.data.labels import check_labels, count_classes
from facex.data.sources.files import FileSet, open_files
from facex.errors import DataError, RecordError

Parsed = tuple[str, float]  # path as written, label


class _BadLine(Exception):
    """What is wrong with a line."""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _BadLine(f"{text[:40]!r} is not a number") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse_magface(line: str) -> Parsed:
    fields = line.rsplit(" ", 3)
    if len(fields) != 4:
        raise _BadLine("expected 'path 0 label 0'")
    return fields[0], _number(fields[2])


def _parse_insightface(line: str) -> Parsed:
    fields = line.split("\t")
    if len(fields) < 3:
        raise _BadLine("expected 'aligned TAB path TAB label'")
    return fields[1], _number(fields[2])


def _parse_lst(line: str) -> Parsed:
    path, label = _parse_insightface(line)
    if line.split("\t", 1)[0].strip() == "0":
        raise _BadLine("the image is not aligned (first column 0): align it first, facex detects no faces")
    return path, label


def _parse_im2rec(line: str) -> Parsed:
    fields = line.split("\t")
    if len(fields) < 3:
        raise _BadLine("expected 'index TAB label TAB path'")
    return fields[-1], _number(fields[1])


def list_format(line: str, suffix: str = ".lst") -> Callable[[str], Parsed]:
    """The parser for a list whose first line is `line`: without tabs MagFace's; with tabs im2rec's when the last
    column is no number (there it is the path), else insightface's, whose first column means "aligned" in a .lst and is
    a key elsewhere (CVLface's train.tsv)."""
    if "\t" not in line:
        return _parse_magface
    if not _is_number(line.split("\t")[-1]):
        return _parse_im2rec
    return _parse_lst if suffix == ".lst" else _parse_insightface


def read_list(path: Path, root: Path | None = None) -> tuple[list[str], np.ndarray]:
    """Paths and raw labels float64 [N] of a list file, in its order. Relative paths are below `root`; unset, below the
    list's folder if the first one is there, else below the current folder, as MagFace takes them.

    Raises DataError naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list: {error}") from error
    rows: list[Parsed] = []
    parse: Callable[[str], Parsed] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        line = line.rstrip("\r\n") if "\t" in line else line.strip()
        parse = parse or list_format(line, path.suffix)
        try:
            rows.append(parse(line))
        except _BadLine as error:
            raise DataError(f"{path}: line {number}: {error}") from None
    if not rows:
        raise DataError(f"{path}: the list is empty")
    if root is None:
        root = path.parent if (path.parent / rows[0][0]).is_file() else Path()
    return [str(root / name) for name, _ in rows], np.array([label for _, label in rows])


def open_list(path: Path, options: ReadOptions, root: Path | None = None) -> FileSet:
    """Open a list file as a training set."""
    paths, values = read_list(path, root)
    try:
        labels = check_labels(values, options.num_classes, lambda row: f"{path}: {paths[row]}", options.allow_ignored)
    except RecordError as error:
        raise DataError(str(error)) from None
    return open_files(path, path.parent, paths, labels, count_classes(labels), options)
