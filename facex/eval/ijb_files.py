"""The lists of IJB-B and IJB-C as insightface hands them out (`meta/`), read with errors that name file and line.

`ijbc_face_tid_mid.txt`: name template medium. `ijbc_template_pair_label.txt`: template template label.
`ijbc_name_5pts_score.txt`: name x1 y1 ... x5 y5 score. `ijbc_1N_gallery_G1.csv` (S1 for IJB-B), `..._probe_mixed.csv`:
template,subject under a header line. The rows of the first and third list belong to the same pictures in one order.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facex.errors import DataError

_BLOCK = 1 << 24  # characters parsed at a time: IJB-C has 15.7 million pairs
_GALLERIES = {"IJBB": ("S1", "S2"), "IJBC": ("G1", "G2")}


@dataclass
class Faces:
    """One row a picture: `names`, and where it has them the template and medium it belongs to (int64 [n]), its
    landmarks (float32 [n, 5, 2]) and its detector score (float32 [n])."""

    names: list[str]
    templates: np.ndarray
    media: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray


@dataclass
class Subjects:
    """Templates and the people they show: int64 [n] each."""

    templates: np.ndarray
    subjects: np.ndarray


@dataclass
class IjbLists:
    """All that the protocols need. `galleries` and `probes` are empty without the 1:N lists."""

    target: str
    faces: Faces
    first: np.ndarray  # int64 [pairs]: template ids
    second: np.ndarray
    issame: np.ndarray  # bool [pairs]
    galleries: list[Subjects]
    probes: Subjects | None


def read_ijb(meta: str | Path, target: str = "IJBC") -> IjbLists:
    """Read the lists of `target` ("IJBB" or "IJBC") in the folder `meta` (or in `meta/TARGET/meta`).

    Raises DataError for a list that is missing, malformed, or does not fit the others.
    """
    if target not in _GALLERIES:
        raise DataError(f"unknown IJB set {target!r}; there are {', '.join(_GALLERIES)}")
    prefix, folder = target.lower(), Path(meta)
    nested = folder / target / "meta"
    folder = nested if nested.is_dir() else folder
    faces = read_faces(folder / f"{prefix}_face_tid_mid.txt", folder / f"{prefix}_name_5pts_score.txt")
    first, second, issame = read_pairs(folder / f"{prefix}_template_pair_label.txt")
    for name, ids in (("first", first), ("second", second)):
        unknown = ~np.isin(ids, faces.templates)
        if unknown.any():
            line = int(np.argmax(unknown)) + 1
            raise DataError(
                f"{folder / f'{prefix}_template_pair_label.txt'}, line {line}: the {name} template {ids[line - 1]} has no"
                " picture in the list of faces; the lists are of different sets"
            )
    csv = [folder / f"{prefix}_1N_gallery_{name}.csv" for name in _GALLERIES[target]]
    probe = folder / f"{prefix}_1N_probe_mixed.csv"
    have = [path for path in (*csv, probe) if path.is_file()]
    if have and len(have) < 3:
        raise DataError(
            f"{folder}: of the 1:N lists only {', '.join(p.name for p in have)}; all three are needed, or none"
        )
    galleries = [read_subjects(path) for path in csv] if have else []
    return IjbLists(target, faces, first, second, issame, galleries, read_subjects(probe) if have else None)


def read_faces(media_list: str | Path, landmark_list: str | Path) -> Faces:
    """Read `*_face_tid_mid.txt` and `*_name_5pts_score.txt`, whose rows are the same pictures.

    Raises DataError naming file and line for a row that is malformed, and for lists that disagree.
    """
    names, (templates, media) = _columns(Path(media_list), " ", 3, (1, 2))
    other, rest = _columns(Path(landmark_list), " ", 12, tuple(range(1, 12)), np.float32)
    if len(names) != len(other):
        raise DataError(
            f"{media_list} has {len(names)} rows and {landmark_list} has {len(other)}; they must be the same pictures"
        )
    for line, (one, two) in enumerate(zip(names, other, strict=True), 1):
        if Path(one).name != Path(two).name:
            raise DataError(
                f"line {line}: {media_list} says {one!r} and {landmark_list} says {two!r}; the order must be the same"
            )
    points = np.stack(rest[:10], 1).reshape(-1, 5, 2)
    return Faces(names, templates, media, points, rest[10])


def read_pairs(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read `*_template_pair_label.txt`: (first, second) int64 [n], issame bool [n]. Raises DataError."""
    table = _table(Path(path), 3)
    first, second, label = table.T if table is not None else _columns(Path(path), " ", 3, (0, 1, 2))[1]
    bad = (label != 0) & (label != 1)
    if bad.any():
        line = int(np.argmax(bad))
        raise DataError(f"{path}, line {line + 1}: the label is {label[line]}, not 0 or 1")
    return first, second, label.astype(bool)


def read_subjects(path: str | Path) -> Subjects:
    """Read a 1:N list: a header line, then `template,subject,...`. A template that is listed once for each of its
    pictures is taken once, and the result is in the order of template ids, as the official readers do. Raises DataError,
    also for a template with two subjects."""
    _, (templates, subjects) = _columns(Path(path), ",", 2, (0, 1), header=True, more=True)
    ids, first, place = np.unique(templates, return_index=True, return_inverse=True)
    wrong = subjects != subjects[first][place]
    if wrong.any():
        line = int(np.argmax(wrong))
        raise DataError(
            f"{path}, line {line + 2}: template {templates[line]} belongs to subjects {subjects[first][place][line]} and {subjects[line]}"
        )
    return Subjects(ids, subjects[first])


def _table(path: Path, width: int) -> np.ndarray | None:
    """A list of whole numbers alone, int64 [n, width], many times faster than `_columns`, which says what is wrong with a
    list for which this gives None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = np.loadtxt(path, np.int64, comments=None, ndmin=2, encoding="utf-8")
    except (OSError, ValueError, OverflowError, Warning):
        return None
    return table if table.shape[1] == width else None


def _columns(
    path: Path,
    separator: str,
    width: int,
    wanted: tuple[int, ...],
    kind: type = np.int64,
    header: bool = False,
    more: bool = False,
) -> tuple[list[str], list[np.ndarray]]:
    """(first column as text, unless it is wanted as numbers; the wanted columns as numbers)."""
    names: list[str] = []
    parts: list[np.ndarray] = []
    for start, block in _blocks(path, header):
        lines = [line for line, text in enumerate(block, start) if text]
        rows = [text.split(",") if separator == "," else text.split() for text in block if text]
        for line, row in zip(lines, rows, strict=True):
            if len(row) < width or (len(row) > width and not more):
                raise DataError(f"{path}, line {line}: {len(row)} columns, {width} are wanted")
        if 0 not in wanted:
            names += [row[0] for row in rows]
        if rows:
            parts.append(_numbers(path, lines, [[row[c] for c in wanted] for row in rows], kind))
    if not parts:
        raise DataError(f"{path}: the list is empty")
    return names, list(np.concatenate(parts).T)


def _numbers(path: Path, lines: list[int], rows: list[list[str]], kind: type) -> np.ndarray:
    found = _parsed(rows, kind)
    if found is not None:
        return found
    what = "whole numbers" if kind is np.int64 else "finite numbers"
    for line, row in zip(lines, rows, strict=True):  # which one it was
        if _parsed([row], kind) is None:
            raise DataError(f"{path}, line {line}: {' '.join(row)!r} is not {what}")
    raise DataError(f"{path}: not {what}")


def _parsed(rows: list[list[str]], kind: type) -> np.ndarray | None:
    try:
        found: np.ndarray = np.array(rows, dtype=str).astype(kind)
    except (ValueError, OverflowError):
        return None
    return found if np.isfinite(found).all() else None


def _blocks(path: Path, header: bool) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines), many at a time, so that memory is bounded by a block."""
    try:
        with open(path, encoding="utf-8") as file:
            line = 1 + header
            if header:
                file.readline()
            while block := file.readlines(_BLOCK):
                yield line, [text.strip() for text in block]
                line += len(block)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
