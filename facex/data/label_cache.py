"""Labels of a large record set, kept after the first opening: reading millions of record headers touches the whole file.

A cache file is one float32 array in the user's cache folder. Its name holds the record file's path and the sizes and
times of .rec and .idx, so a set that changes finds nothing under its name; what is found is compared with some of the
records all the same. FACEX_CACHE names another folder, and empty switches the cache off. So does a folder that cannot
be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np

from facex.data.recordio import RecordFile
from facex.files import atomic_path

SMALLEST = 200_000  # records; below, reading them all takes no time
_COMPARED = 64  # records that are read in spite of the cache


def read_labels(file: RecordFile, positions: np.ndarray, threads: int) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """First label of the records at `positions` of the index, float32 [n], and the bad rows (row, what is wrong)."""
    place = _place(file, positions) if len(positions) >= SMALLEST else None
    labels = _load(place, file, positions) if place is not None else None
    if labels is not None:
        return labels, []
    columns = file.headers(positions, threads)
    if place is not None and not columns.failures:
        _store(place, columns.label0)
    return columns.label0, columns.failures


def _place(file: RecordFile, positions: np.ndarray) -> Path | None:
    """Where the labels would lie: FOLDER/PATH-STATE.npy; None without a folder or an index."""
    folder = os.environ.get("FACEX_CACHE", os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "facex"))
    folder = os.path.expanduser(folder)
    if not folder or folder.startswith("~") or file.index_path is None:
        return None
    path = os.path.realpath(file.path)
    state: list[object] = [zlib.crc32(np.ascontiguousarray(positions).data)]
    for part in (path, file.index_path):
        stat = os.stat(part)
        state += [stat.st_size, stat.st_mtime_ns]
    name = "-".join(hashlib.sha256(repr(text).encode()).hexdigest()[:32] for text in (path, state))
    return Path(folder) / "labels" / f"{name}.npy"


def _load(place: Path, file: RecordFile, positions: np.ndarray) -> np.ndarray | None:
    try:
        labels = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(labels, np.ndarray) or labels.dtype != np.float32 or labels.shape != positions.shape:
        return None
    rows = np.linspace(0, len(positions) - 1, _COMPARED).astype(np.int64)
    found = file.headers(positions[rows])
    return labels if not found.failures and np.array_equal(found.label0, labels[rows]) else None


def _store(place: Path, labels: np.ndarray) -> None:
    with contextlib.suppress(OSError):
        with atomic_path(place) as temporary, open(temporary, "wb") as out:
            np.save(out, labels, allow_pickle=False)
        for old in place.parent.glob(f"{place.name.split('-')[0]}-*.npy"):  # of earlier states of the set
            if old != place:
                old.unlink()
