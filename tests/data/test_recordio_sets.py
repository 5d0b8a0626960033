"""Training sets: layouts, class counts, sizes, the error policy, image folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from facex.data import DataWarning, FaceDataset, RecordFile, RecordWriter, open_dataset
from facex.data.dataset import default_threads
from facex.data.decoding import NativeResult, Status
from facex.data.sources.recordset import image_key_end
from facex.data.writer import pack_record
from facex.errors import ConfigError, DataError, RecordError
from tests.data.face_files import decoded, jpeg, write_image_folder, write_set

SAME = ["small", "face2rec2", "header_first", "headerless", "no_idx"]


def _read_all(data: FaceDataset) -> dict[str, torch.Tensor]:
    out = data.allocate(len(data), False)
    data.read(np.arange(len(data)), out)
    return out


def test_layouts_describe_the_same_images(facex_data: Path) -> None:
    """Five layouts of one set: the same pairs of picture and label, in another order."""
    seen = set()
    for name in SAME:
        data = open_dataset(facex_data / "goldens" / "recordio" / name, threads=2)
        out = _read_all(data)
        pairs = sorted(
            (hash(image.numpy().tobytes()), int(label)) for image, label in zip(out["image"], out["label"], strict=True)
        )
        seen.add(tuple(pairs))
        assert (data.num_classes, data.size) == (6, (112, 112))
    assert len(seen) == 1


@pytest.mark.parametrize("layout", ["insightface", "plain"])
def test_a_written_set_reads_back(tmp_path: Path, layout: str) -> None:
    data = open_dataset(write_set(tmp_path, layout=layout), threads=2)
    assert isinstance(data, FaceDataset)
    assert (len(data), data.num_classes, data.size, data.color) == (12, 3, (16, 16), "rgb")
    assert data.labels().tolist() == [i // 4 for i in range(12)]
    out = _read_all(data)
    for i in range(12):
        np.testing.assert_array_equal(out["image"][i].numpy(), decoded(i))
    assert out["label"].tolist() == data.labels().tolist()


def test_colour_order(tmp_path: Path) -> None:
    write_set(tmp_path)
    rgb, bgr = open_dataset(tmp_path), open_dataset(tmp_path, color="bgr")
    assert bgr.color == "bgr"
    assert torch.equal(_read_all(rgb)["image"].flip(-1), _read_all(bgr)["image"])
    with pytest.raises(ConfigError, match="color is 'gbr'"):
        open_dataset(tmp_path, color="gbr")


def test_another_size_is_an_error_unless_a_size_is_given(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train") as writer:
        for key, (height, width) in enumerate([(16, 16), (20, 12)]):
            writer.write(key, pack_record(key, jpeg(key, height, width)))
    (tmp_path / "property").write_text("2,16,16\n")
    with pytest.raises(RecordError, match=r"train\.rec: key 1 at offset \d+: .*image is 12x20, expected 16x16"):
        _read_all(open_dataset(tmp_path))
    data = open_dataset(tmp_path, size=(16, 16), threads=2)
    out = _read_all(data)
    np.testing.assert_array_equal(out["image"][0].numpy(), decoded(0))
    assert abs(float(out["image"][1].float().mean()) - float(decoded(1, 20, 12).mean())) < 4


def _damaged_set(folder: Path) -> Path:
    """Sample 1 is half a JPEG, sample 2 no picture at all."""
    folder.mkdir(exist_ok=True)
    whole = [jpeg(i, 64, 64) for i in range(4)]
    payloads = [whole[0], whole[1][: len(whole[1]) * 9 // 10], b"this is not a picture", whole[3]]
    with RecordWriter(folder / "train") as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, pack_record(key, payload))
    (folder / "property").write_text("4,64,64\n")
    return folder


def test_on_error_raise(tmp_path: Path) -> None:
    data = open_dataset(_damaged_set(tmp_path))
    with pytest.raises(RecordError, match=r"train\.rec: key 1 at offset \d+: cannot decode: premature end"):
        _read_all(data)
    with pytest.raises(RecordError, match=r"key 2 .*cannot decode: not a JPEG"):
        data.read([2, 0], data.allocate(2))
    assert data.error_count == 0


def test_on_error_skip_makes_rows_ignored(tmp_path: Path) -> None:
    data = open_dataset(_damaged_set(tmp_path), on_error="skip")
    out = _read_all(data)
    assert out["label"].tolist() == [0, -1, -1, 3]
    assert (out["image"][1:3] == 128).all()
    assert data.error_count == 2
    assert "key 1" in data.errors[0]
    np.testing.assert_array_equal(out["image"][3].numpy(), decoded(3, 64, 64))


def test_on_error_grey_keeps_what_is_readable(tmp_path: Path) -> None:
    data = open_dataset(_damaged_set(tmp_path), on_error="grey")
    out = _read_all(data)
    assert out["label"].tolist() == [0, 1, 2, 3]
    assert (out["image"][2] == 128).all()
    np.testing.assert_array_equal(out["image"][1, :16].numpy(), decoded(1, 64, 64)[:16])  # above the cut
    assert data.error_count == 2


def test_malformed_records_can_be_dropped(tmp_path: Path) -> None:
    write_set(tmp_path, layout="plain")
    file = RecordFile(tmp_path / "train.rec")
    content = bytearray((tmp_path / "train.rec").read_bytes())
    content[file.offset(5)] ^= 1
    (tmp_path / "train.rec").write_bytes(content)
    with pytest.raises(RecordError, match=r"key 5 .*bad magic"):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, on_error="skip")
    assert (len(data), data.error_count) == (11, 1)
    assert data.about.rows.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(_read_all(data)["image"][5].numpy(), decoded(6))


@pytest.mark.parametrize("layout", ["insightface", "plain"])
@pytest.mark.parametrize(("classes", "what"), [(2, "out of range for 2 classes"), (4, "class count mismatch")])
def test_class_count_that_differs_from_property(tmp_path: Path, layout: str, classes: int, what: str) -> None:
    write_set(tmp_path, layout=layout)
    (tmp_path / "facex.json").unlink()
    (tmp_path / "property").write_text(f"{classes},16,16\n")
    with pytest.raises(RecordError, match=what):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, num_classes=7).num_classes == 7


def test_property_and_card_must_agree(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "property").write_text("3,112,112\n")
    with pytest.raises(RecordError, match=r"property: .*facex\.json"):
        open_dataset(tmp_path)


def test_without_property_the_records_tell(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "facex.json").unlink()
    (tmp_path / "property").unlink()
    with pytest.warns(DataWarning, match="no property file"):
        data = open_dataset(tmp_path)
    assert (data.num_classes, data.size, len(data)) == (3, (16, 16), 12)


def test_insightface_set_without_its_index(tmp_path: Path) -> None:
    """The index is lost: images are the records with a picture, identity records and header are none."""
    data = open_dataset(write_set(tmp_path))
    (tmp_path / "train.idx").unlink()
    again = open_dataset(tmp_path)
    assert again.labels().tolist() == data.labels().tolist()
    assert torch.equal(_read_all(again)["image"], _read_all(data)["image"])


def test_labels_may_be_ignored_when_asked(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack_record(0, jpeg(0)))
        writer.write(1, pack_record(-1, jpeg(1)))
    (tmp_path / "property").write_text("1,16,16\n")
    with pytest.raises(RecordError, match=r"key 1 .*label -1 out of range"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, allow_ignored=True).labels().tolist() == [0, -1]


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 0.5])
def test_labels_that_are_no_class(tmp_path: Path, label: float) -> None:
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack_record(0, jpeg(0)))
        writer.write(1, pack_record(label, jpeg(1)))
    (tmp_path / "property").write_text("1,16,16\n")
    with pytest.raises(RecordError, match=r"key 1 .*is not an integer"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("exact", [2**24 - 1, 2**24 + 1, 2**24 + 3, 2**25 + 3, 42_474_557])
def test_header_counts_above_2_to_the_24_are_rounded(exact: int) -> None:
    """float32 cannot say the count: the records behind it decide."""
    label = float(np.float32(exact))
    assert image_key_end(label, lambda key: 1 <= key < exact) == exact


def test_empty_and_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither a \.rec file nor subfolders"):
        open_dataset(tmp_path)
    (tmp_path / "train.rec").write_bytes(b"")
    with pytest.raises(RecordError, match=r"train\.rec: no records"):
        open_dataset(tmp_path)
    (tmp_path / "train.idx").write_text("0\t0\n")
    with pytest.raises(RecordError, match="past end of file"):
        open_dataset(tmp_path)


def test_missing_fields_are_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    with pytest.raises(ConfigError, match=r"no field 'parsing'.*none"):
        open_dataset(tmp_path, fields=("image", "label", "parsing"))
    np.save(tmp_path / "landmarks5.npy", np.zeros((3, 5, 2), np.float32))
    with pytest.raises(DataError, match=r"landmarks5\.npy: 3 rows, the set has 12 samples"):
        open_dataset(tmp_path, fields=("landmarks",))
    np.save(tmp_path / "flags.npy", np.array([object()] * 12), allow_pickle=True)
    with pytest.raises(DataError, match=r"flags\.npy: not a \.npy array"):
        open_dataset(tmp_path, fields=("flags",))


@pytest.mark.parametrize(("value", "dtype"), [(2, np.uint8), (-1, np.int64), (0.5, np.float32), (np.nan, np.float64)])
def test_a_flag_is_0_or_1(value: float, dtype: type, tmp_path: Path) -> None:
    write_set(tmp_path)
    flags = np.array([0, 1] * 6, dtype)
    np.save(tmp_path / "flags.npy", flags)
    assert _read_all(open_dataset(tmp_path, fields=("image", "flag")))["flag"].tolist() == [False, True] * 6
    flags[7] = value
    np.save(tmp_path / "flags.npy", flags)
    with pytest.raises(DataError, match=r"flags\.npy: a flag is 0 or 1; sample 7 has"):
        open_dataset(tmp_path, fields=("flag",))


def test_points_follow_a_resize(tmp_path: Path) -> None:
    write_set(tmp_path, size=16)
    centres = np.tile(np.array([[7.5, 7.5], [0.0, 15.0], [1, 1], [2, 2], [3, 3]], np.float32), (12, 1, 1))
    np.save(tmp_path / "landmarks5.npy", centres)
    data = open_dataset(tmp_path, size=32, fields=("image", "landmarks5"))
    points = _read_all(data)["landmarks5"][0]
    np.testing.assert_allclose(points[0], [15.5, 15.5])  # the middle stays the middle
    np.testing.assert_allclose(points[1], [0.5, 30.5])


def test_image_folder(tmp_path: Path) -> None:
    data = open_dataset(write_image_folder(tmp_path), threads=2)
    assert (len(data), data.num_classes, data.size) == (6, 3, (16, 16))
    out = _read_all(data)
    assert out["label"].tolist() == [0, 0, 1, 1, 2, 2]
    for i in range(6):
        np.testing.assert_array_equal(out["image"][i].numpy(), decoded(i))
    (tmp_path / "c1" / "002.jpg").write_bytes(b"\xff\xd8rubbish")
    with pytest.raises(RecordError, match=r"c1/002\.jpg: cannot decode"):
        _read_all(data)
    (tmp_path / "c1" / "002.jpg").unlink()
    with pytest.raises(RecordError, match=r"c1/002\.jpg: cannot open"):
        _read_all(data)
    (tmp_path / "c3").mkdir()
    with pytest.raises(DataError, match="c3: no images"):
        open_dataset(tmp_path)


def test_sample_numbers_are_checked(tmp_path: Path) -> None:
    data = open_dataset(write_set(tmp_path))
    for wrong in ([12], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.11"):
            data.read(wrong, data.allocate(1))


def test_without_libjpeg_turbo_opencv_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without jpeglib.h leaves every picture to OpenCV: the same pixels, the same errors."""
    data = open_dataset(write_set(tmp_path / "set"), threads=2)
    broken = open_dataset(_damaged_set(tmp_path / "bad"), on_error="skip", threads=2)

    def leave_all(self: RecordFile, positions: np.ndarray, out: np.ndarray, *options: object) -> NativeResult:
        return np.full(len(positions), Status.OTHER, np.int8), np.zeros((len(positions), 2), np.int32), []

    expected = _read_all(data)
    monkeypatch.setattr(RecordFile, "decode", leave_all)
    assert torch.equal(_read_all(data)["image"], expected["image"])
    assert _read_all(broken)["label"].tolist() == [0, -1, -1, 3]


@pytest.mark.parametrize("variable", ["LOCAL_SIZE", "LOCAL_WORLD_SIZE"])  # DeepSpeed's launcher, torchrun
def test_ranks_of_a_machine_share_its_cores(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16))
    assert default_threads() == 16
    monkeypatch.setenv(variable, "4")
    assert default_threads() == 4
