"""The label cache: a second opening reads few records, and nothing that is wrong is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex.data import label_cache, open_dataset, write_face_set
from facex.data.imageio import encode_png
from facex.data.recordio import RecordFile

LABELS = [0, 0, 1, 1, 1, 2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(label_cache, "SMALLEST", 4)
    monkeypatch.setattr(label_cache, "_COMPARED", 3)
    return tmp_path / "cache" / "labels"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many headers each call read."""
    counts: list[int] = []
    headers = RecordFile.headers

    def counted(self: RecordFile, positions: Any = None, threads: int = 1) -> Any:
        counts.append(len(self if positions is None else positions))
        return headers(self, positions, threads)

    monkeypatch.setattr(RecordFile, "headers", counted)
    return counts


def write(folder: Path, labels: list[int]) -> None:
    picture = encode_png(np.full((16, 16, 3), 90, np.uint8))
    write_face_set(folder, [(picture, label) for label in labels], max(labels) + 1, (16, 16))


def test_the_second_opening_reads_few_records(tmp_path: Path, cache: Path, read: list[int]) -> None:
    write(tmp_path / "set", LABELS)
    assert open_dataset(tmp_path / "set").labels().tolist() == LABELS
    assert len(LABELS) in read
    read.clear()
    assert open_dataset(tmp_path / "set").labels().tolist() == LABELS
    assert len(LABELS) not in read
    assert len(list(cache.iterdir())) == 1


def test_a_changed_set_is_read_again(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "set", LABELS)
    open_dataset(tmp_path / "set")
    changed = [0, 1, 1, 1, 1, 2]
    write(tmp_path / "set", changed)
    assert open_dataset(tmp_path / "set").labels().tolist() == changed
    assert len(list(cache.iterdir())) == 1  # the old one is gone


@pytest.mark.parametrize("content", ["cut", "type", "length", "labels"])
def test_a_wrong_cache_is_not_believed(tmp_path: Path, cache: Path, content: str) -> None:
    write(tmp_path / "set", LABELS)
    open_dataset(tmp_path / "set")
    (file,) = cache.iterdir()
    if content == "cut":
        file.write_bytes(file.read_bytes()[:60])
    else:
        values = {"type": np.arange(6), "length": np.zeros(5, np.float32), "labels": np.ones(6, np.float32)}[content]
        np.save(file, values)
    assert open_dataset(tmp_path / "set").labels().tolist() == LABELS


@pytest.mark.parametrize("folder", ["", "/proc/nowhere"])
def test_off_or_not_writable(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("FACEX_CACHE", folder)
    write(tmp_path / "set", LABELS)
    assert open_dataset(tmp_path / "set").labels().tolist() == LABELS
    assert not cache.exists()
