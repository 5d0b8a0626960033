"""Masked copies: chosen before decoding, the same on any number of ranks, counted where they are missing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from facex_jhmfr.masked_copies import MaskedCopies

from facex.data import write_face_set
from facex.data.dataset import DataWarning
from facex.data.loader import BatchLoader
from facex.errors import ConfigError, DataError, RecordError


def write(path: Path, value: int, size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 faces of 3 people, dark; their masked copies bright, at the same places."""
    for person in range(3):
        for i in range(4):
            write(tmp_path / "imgs" / f"p{person}" / f"{i}.png", 10 * person + i)
            write(tmp_path / "masked" / f"p{person}" / f"{i}.png", 200 + 10 * person + i)
    return tmp_path


def test_a_copy_brings_its_flag_and_the_originals_label(folder: Path) -> None:
    data = MaskedCopies(folder, masked_faces=0.5)
    assert (len(data), data.num_classes, data.missing_copies) == (12, 3, 0)
    data.uniform = lambda epoch, indices: np.where(indices % 2 == 0, 0.1, 0.5)
    out = data.allocate(4)
    data.read_in_epoch(0, np.array([0, 5, 6, 11]), out)
    assert out["flag"].tolist() == [True, False, True, False]  # 0.5 is not below 0.5
    assert out["label"].tolist() == [0, 1, 1, 2]
    assert out["image"][:, 0, 0, 0].tolist() == [200, 11, 212, 23]
    data.read(np.arange(4), out)
    assert not out["flag"].any() and out["image"].max() < 100


def test_each_epoch_chooses_anew_and_ranks_agree(folder: Path) -> None:
    data = MaskedCopies(folder, masked_faces=0.5)
    seen = {}
    for ranks in (1, 2):
        for epoch in (0, 1):
            flags = {}
            for rank in range(ranks):
                loader = BatchLoader(data, 4, 2, rank, ranks, seed=3, prefetch=0)
                for batches in loader.epoch(epoch):
                    for batch in batches:
                        masked = batch["image"][:, 0, 0, 0] >= 200
                        assert masked.tolist() == batch["flag"].tolist()
                        flags |= dict(zip(batch.index.tolist(), batch["flag"].tolist(), strict=True))
            seen[ranks, epoch] = flags
    assert seen[1, 0] == seen[2, 0] and seen[1, 1] == seen[2, 1]
    assert len(seen[1, 0]) == 12 and seen[1, 0] != seen[1, 1]


def test_the_share_is_kept_and_the_seed_matters(folder: Path) -> None:
    indices = np.arange(20000)
    data, other = MaskedCopies(folder, masked_faces=0.1), MaskedCopies(folder, masked_faces=0.1, seed=1)
    assert (data.uniform(0, indices) < 0.1).mean() == pytest.approx(0.1, abs=0.01)
    assert not np.array_equal(data.uniform(0, indices), other.uniform(0, indices))


def test_missing_copies_are_counted_and_reported(folder: Path) -> None:
    (folder / "masked" / "p1" / "2.png").unlink()
    with pytest.warns(DataWarning, match=r"1 of 12 faces have no masked copy .*p1/2\.png"):
        data = MaskedCopies(folder, masked_faces=1.0)
    assert data.missing_copies == 1
    out = data.allocate(12)
    data.read_in_epoch(0, np.arange(12), out)
    assert np.flatnonzero(~out["flag"].numpy()).tolist() == [6]
    assert out["image"][6].max() == 12


def test_nothing_but_the_chosen_picture_is_decoded(folder: Path) -> None:
    (folder / "imgs" / "p0" / "1.png").write_bytes(b"broken")
    (folder / "masked" / "p0" / "2.png").write_bytes(b"broken")
    data = MaskedCopies(folder, masked_faces=0.5)
    data.uniform = lambda epoch, indices: np.where(indices == 1, 0.0, 1.0)
    out = data.allocate(3)
    data.read_in_epoch(0, np.array([0, 1, 2]), out)
    data.uniform = lambda epoch, indices: np.zeros(len(indices))
    with pytest.raises(RecordError, match=r"masked/p0/2\.png"):
        data.read_in_epoch(0, np.array([2]), data.allocate(1))


def test_what_cannot_be(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"masked_faces 1\.5 is no share"):
        MaskedCopies(folder, masked_faces=1.5)
    with pytest.raises(DataError, match="must hold the masked copies"):
        MaskedCopies(folder, copies="none")
    assert MaskedCopies(folder, copies="none", masked_faces=0.0).missing_copies == 0
    write(folder / "other" / "x" / "9.png", 1)
    write(folder / "small" / "p0" / "0.png", 1, size=8)
    with pytest.raises(DataError, match="holds no copy of any face"):
        MaskedCopies(folder, copies="other")
    with pytest.raises(DataError, match="pictures of"):
        MaskedCopies(folder, copies="small")
    with pytest.raises(ConfigError, match="pictures on the disk"):
        MaskedCopies("synthetic:3x4", masked_faces=0.0)


def test_a_set_that_is_no_folder_of_two(folder: Path) -> None:
    data = MaskedCopies(folder / "imgs", copies="../masked", masked_faces=1.0)
    assert (len(data), data.missing_copies) == (12, 0)


def test_recordio_copies_are_found_by_key(folder: Path) -> None:
    for name, value in (("rec", 0), ("rec_masked", 200)):
        pictures = [np.full((16, 16, 3), value + i, np.uint8) for i in range(6)]
        samples = [(cv2.imencode(".png", p)[1].tobytes(), i // 2) for i, p in enumerate(pictures)]
        write_face_set(folder / name, samples, 3, (16, 16))
    data = MaskedCopies(folder, originals="rec", copies="rec_masked", masked_faces=0.5)
    assert (len(data), data.num_classes, data.missing_copies) == (6, 3, 0)
    data.uniform = lambda epoch, indices: np.where(indices == 4, 0.0, 0.9)
    out = data.allocate(2)
    data.read_in_epoch(0, np.array([3, 4]), out)
    assert out["image"][:, 0, 0, 0].tolist() == [3, 204]
    assert out["label"].tolist() == [1, 2]
    with pytest.raises(DataError, match="of different kinds"):
        MaskedCopies(folder, originals="rec", copies="masked")
