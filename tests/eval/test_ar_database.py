"""The AR protocols against a loop; names of files; what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facex.errors import DataError
from facex.eval.ar_database import GALLERY_1, GALLERY_2, SCARF, SUNGLASSES, evaluate_ar, identify_ar, read_ar
from tests.eval.tiny import Tiny, encode, faces

PEOPLE, NUMBER = (column.ravel() for column in np.meshgrid(np.arange(1, 9), np.arange(1, 27), indexing="ij"))


def embeddings(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(9, 6))[PEOPLE] + rng.normal(size=(len(PEOPLE), 6)) * 0.9


@pytest.mark.parametrize("gallery", [GALLERY_1, GALLERY_2, (3, 16)])
def test_rank_one_equals_a_loop(gallery: tuple[int, ...]) -> None:
    rows = embeddings()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = identify_ar(rows * 7, PEOPLE, NUMBER, gallery)
    inside = np.flatnonzero(np.isin(NUMBER, gallery))
    for numbers, rate, count in ((SUNGLASSES, found.sunglasses, 0), (SCARF, found.scarf, 1)):
        probes = np.flatnonzero(np.isin(NUMBER, numbers))
        hits = [PEOPLE[inside[np.argmax([unit[p] @ unit[g] for g in inside])]] == PEOPLE[p] for p in probes]
        assert rate == np.mean(hits)
        assert 0 < rate < 1
        assert found.probes[count] == len(probes) == 48
    assert found.people == 8
    assert found.summary()["gallery"] == list(gallery)


def test_what_is_missing_is_named_or_counted() -> None:
    rows = embeddings()
    kept = ~((PEOPLE == 3) & (NUMBER == 1))
    with pytest.raises(DataError, match=r"sunglasses picture 8 of person 3.*6 such probes"):
        identify_ar(rows[kept], PEOPLE[kept], NUMBER[kept], GALLERY_2)
    found = identify_ar(rows[kept], PEOPLE[kept], NUMBER[kept], GALLERY_2, missing="skip")
    assert found.skipped == 12
    assert found.probes == (42, 42)
    assert found.people == 7
    with pytest.raises(DataError, match="not occluded"):
        identify_ar(rows, PEOPLE, NUMBER, (1, 8))
    with pytest.raises(DataError, match="gallery is empty"):
        identify_ar(rows[NUMBER > 7], PEOPLE[NUMBER > 7], NUMBER[NUMBER > 7], (1,))
    with pytest.raises(DataError, match="no scarf pictures"):
        identify_ar(rows[NUMBER < 11], PEOPLE[NUMBER < 11], NUMBER[NUMBER < 11], (1,))
    with pytest.raises(DataError, match="NaN"):
        identify_ar(np.full_like(rows, np.nan), PEOPLE, NUMBER)


def test_a_folder(tmp_path: Path) -> None:
    """Men and women do not share numbers; subfolders are read; every picture goes through the method."""
    pictures = faces(4, seed=2)
    for person, name in enumerate(("m-001", "m-002", "w-001", "w-002")):
        for number, image in ((1, pictures[person, 0]), (8, pictures[person, 1]), (24, pictures[person, 1])):
            folder = tmp_path / name[:1]
            folder.mkdir(exist_ok=True)
            (folder / f"{name}-{number:02}.bmp").write_bytes(encode(image))
    found = read_ar(tmp_path)
    assert found.person.tolist() == [p for p in (1, 2, 51, 52) for _ in range(3)]
    assert found.number.tolist() == [1, 8, 24] * 4
    method = Tiny()
    result = evaluate_ar(method, method.networks(), tmp_path, GALLERY_2)
    assert result.sunglasses == result.scarf  # the same pictures
    assert result.sunglasses == 1
    assert result.probes == (4, 4)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_ar(tmp_path / "none")
    with pytest.raises(DataError, match="no pictures"):
        read_ar(tmp_path)
    (tmp_path / "m-001-01.bmp").write_bytes(b"")
    (tmp_path / "m-001-01.png").write_bytes(b"")
    with pytest.raises(DataError, match="both picture 1 of person 1"):
        read_ar(tmp_path)
    (tmp_path / "m-001-01.png").rename(tmp_path / "m-001-27.png")
    with pytest.raises(DataError, match=r"m-001-27\.png.*m-NNN-NN"):
        read_ar(tmp_path)
