"""Masked pairs and masked copies of data sets: what is drawn, under which names, and what is left out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from facex_jhmfr import mask_command
from facex_jhmfr.mask_writer import MaskOptions, write_masked_copy
from facex_jhmfr.masked_copies import MaskedCopies
from facex_jhmfr.masked_pairs import by_conditions, masked_pairs

from facex.data import open_dataset, write_face_set
from facex.data.imageio import encode_png
from facex.data.masking import FaceMask
from facex.data.recordio import RecordFile
from facex.data.verification import VerificationSet, load_bin, write_bin
from facex.errors import ConfigError, DataError, VerificationSetError


def face(seed: int) -> np.ndarray:
    """A picture like no other, 112 x 112, dark."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 90, (14, 14, 3), np.uint8), (112, 112))


@pytest.fixture
def pairs() -> VerificationSet:
    return VerificationSet([encode_png(face(i)) for i in range(4)], np.array([True, False]), "some")


def test_conditions_mask_the_sides_that_they_name(pairs: VerificationSet) -> None:
    bare, half, both = by_conditions([pairs])
    assert [one.name for one in (bare, half, both)] == ["some-H-H", "some-H-M", "some-M-M"]
    assert bare.entries == pairs.entries and not bare.flags.any()
    assert half.flags.tolist() == [False, True] * 2 and both.flags.all()
    for i in range(4):
        changed = (both.decode(start=i, stop=i + 1)[0] != face(i)).any(-1)
        assert changed[64:].mean() > 0.2 and not changed[:32].any()  # mouth and chin, never the forehead
    assert half.entries[::2] == pairs.entries[::2] and half.entries[1::2] == both.entries[1::2]
    assert masked_pairs(pairs, "M-M").entries == both.entries != masked_pairs(pairs, "M-M", seed=1).entries


def test_pairs_that_cannot_be_masked(pairs: VerificationSet) -> None:
    with pytest.raises(ConfigError, match="H-H, H-M, M-M, not 'M-H'"):
        masked_pairs(pairs, "M-H")  # type: ignore[arg-type]
    pairs.flags = np.array([False, True, False, False])
    with pytest.raises(VerificationSetError, match="flagged as masked already"):
        masked_pairs(pairs, "M-M")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """12 faces of 4 people as insightface writes them: keys 1 to 12."""
    write_face_set(tmp_path / "rec", [(encode_png(face(i)), i // 3) for i in range(12)], 4)
    return tmp_path / "rec"


def test_records_keep_keys_and_labels_on_any_number_of_threads(records: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        report = write_masked_copy(records, tmp_path / f"m{threads}", FaceMask(), MaskOptions(threads=threads))
        assert (report.written, report.left_out) == (12, 0)
    assert (tmp_path / "m1/train.rec").read_bytes() == (tmp_path / "m3/train.rec").read_bytes()
    file = RecordFile(tmp_path / "m1/train.rec")
    assert list(file.keys) == list(range(1, 13))
    data = MaskedCopies(records, masked_faces=1.0, copies=str(tmp_path / "m1"))
    out = data.allocate(12)
    data.read_in_epoch(0, np.arange(12), out)
    assert data.missing_copies == 0 and out["flag"].all() and out["label"].tolist() == [i // 3 for i in range(12)]
    for i, picture in enumerate(out["image"].numpy()):
        changed = (np.abs(picture.astype(int) - face(i)) > 24).any(-1)  # it is a JPEG
        assert changed[64:].mean() > 0.05 and changed[:32].mean() < 0.01


def test_a_broken_face_is_left_out_and_changes_no_other(records: Path, tmp_path: Path) -> None:
    write_masked_copy(records, tmp_path / "whole", FaceMask())
    content = bytearray((records / "train.rec").read_bytes())
    at = content.find(b"\x89PNG", content.find(b"\x89PNG") + 1)
    content[at : at + 4] = b"NOPE"
    (records / "train.rec").write_bytes(content)
    report = write_masked_copy(records, tmp_path / "part", FaceMask())
    assert (report.written, report.left_out) == (11, 1) and "not a JPEG, PNG" in report.messages[0]
    whole, part = (RecordFile(tmp_path / name / "train.rec") for name in ("whole", "part"))
    assert list(part.keys) == [1, *range(3, 13)]
    assert part.payload_at(1) == whole.payload_at(2)
    with pytest.raises(DataError, match="not a JPEG, PNG"):
        write_masked_copy(records, tmp_path / "strict", FaceMask(), MaskOptions(on_error="raise"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part", "rec", "whole"]  # nothing half-written is left


def test_image_folders_keep_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/1.jpg", "a/2.png", "b/1.png"):
        (tmp_path / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "imgs" / name), face(len(name)))
    assert mask_command.main([str(tmp_path / "imgs"), str(tmp_path / "masked"), "--templates", "surgical"]) == 0
    assert "3 masked faces, 0 left out" in capsys.readouterr().out
    files = sorted(str(p.relative_to(tmp_path / "masked")) for p in (tmp_path / "masked").rglob("*.*"))
    assert files == ["a/1.jpg", "a/2.png", "b/1.png"]
    assert (tmp_path / "masked/a/1.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert MaskedCopies(tmp_path).missing_copies == 0
    with pytest.raises(ConfigError, match="exists already"):
        mask_command.main([str(tmp_path / "imgs"), str(tmp_path / "masked")])
    with pytest.raises(ConfigError, match=r"lies in 1\.\.100"):
        mask_command.main([str(tmp_path / "imgs"), str(tmp_path / "other"), "--quality", "0"])


def test_masks_follow_the_landmarks_of_the_set(tmp_path: Path) -> None:
    from facex.data.companions import KNOWN

    points = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]], np.float32)
    samples = [(encode_png(np.zeros((112, 112, 3), np.uint8)), 0, {"landmarks5": points + (0, y)}) for y in (0, -30)]
    write_face_set(tmp_path / "rec", samples, 1, fields={"landmarks5": KNOWN["landmarks5"]})
    write_masked_copy(tmp_path / "rec", tmp_path / "out", FaceMask(templates=["surgical"], colored=1.0))
    data = open_dataset(tmp_path / "out")
    out = data.allocate(2)
    data.read(np.arange(2), out)
    lowest = [int(np.flatnonzero((picture > 40).any((1, 2)))[-1]) for picture in out["image"].numpy()]
    assert lowest[0] - lowest[1] > 10


def test_verification_sets_become_two_with_flags(
    pairs: VerificationSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bin(tmp_path / "some.bin", pairs.entries, pairs.issame.tolist())
    words = [str(tmp_path / "some.bin"), str(tmp_path / "out")]
    mask_command.main(words)
    assert capsys.readouterr().out.count("some-") == 2
    found = [load_bin(tmp_path / "out" / f"some-{condition}.bin") for condition in ("H-M", "M-M")]
    for one, expected in zip(found, by_conditions([pairs])[1:], strict=True):
        assert one.entries == expected.entries and one.flags.tolist() == expected.flags.tolist()
    with pytest.raises(ConfigError, match=r"some-H-M\.bin exists already"):
        mask_command.main(words)


def test_the_masks_of_verification_sets_can_be_chosen(pairs: VerificationSet, tmp_path: Path) -> None:
    write_bin(tmp_path / "some.bin", pairs.entries, pairs.issame.tolist())
    mask_command.main(
        [str(tmp_path / "some.bin"), str(tmp_path / "out"), "--templates", "surgical", "--colored", "1", "--seed", "3"]
    )
    masks = FaceMask(templates=["surgical"], colored=1.0)
    assert load_bin(tmp_path / "out/some-M-M.bin").entries == masked_pairs(pairs, "M-M", 3, masks).entries
