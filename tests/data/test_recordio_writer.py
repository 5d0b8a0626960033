"""RecordWriter and FaceSetWriter: round trips, MXNet's bytes, atomicity, layouts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facex.data import FaceSetWriter, RecordFile, RecordWriter, open_dataset, write_face_set
from facex.data.recordio import unpack
from facex.data.writer import MAGIC, RECORD_LIMIT, pack_record, split_record
from facex.errors import DataError
from facex.methods.batch import Field
from tests.data.face_files import decoded, jpeg, picture

pieces = st.sampled_from([MAGIC, MAGIC[:2], b"\0", b"abc", b"abcd", b""])
payloads = st.lists(pieces, max_size=12).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(payloads, max_size=8))
def test_round_trip_of_records_with_magics(records: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with RecordWriter(Path(folder) / "x") as writer:
            for key, record in enumerate(records):
                writer.write(key, record)
        file = RecordFile(Path(folder) / "x.rec")
        assert [file.read(key) for key in range(len(records))] == records
        assert [entry.data for entry in file] == records
        assert RecordFile(Path(folder) / "x.rec", None).offsets.tolist() == file.offsets.tolist()
        for record in records:  # no part holds the magic at an aligned place: a reader may start anywhere
            for _, part in split_record(record):
                assert all(part[at : at + 4] != MAGIC for at in range(0, len(part), 4))


def test_parts_of_known_records() -> None:
    assert split_record(MAGIC) == [(1, b""), (3, b"")]
    assert split_record(MAGIC + MAGIC) == [(1, b""), (2, b""), (3, b"")]
    assert split_record(MAGIC + b"abc") == [(1, b""), (3, b"abc")]
    assert split_record(b"x" + MAGIC + b"yzw") == [(0, b"x" + MAGIC + b"yzw")]
    assert split_record(b"x" + MAGIC + b"yzw" + MAGIC) == [(1, b"x" + MAGIC + b"yzw"), (3, b"")]


def test_rewriting_gives_mxnet_s_bytes(facex_data: Path, tmp_path: Path) -> None:
    """MXNet wrote the goldens: the same records under the same keys must give the same two files."""
    names = ["magic/raw", "magic/images", "lengths/raw", "lengths/ir", "labels/multi", "small/train", "sparse_keys/str"]
    for name in names:
        source = facex_data / "goldens" / "recordio" / f"{name}.rec"
        file = RecordFile(source, key_type=str if name.endswith("/str") else int)
        with RecordWriter(tmp_path / "copy") as writer:
            for key, offset in sorted(zip(file.keys, file.offsets, strict=True), key=lambda pair: pair[1]):
                assert writer.write(key, file.read(key)) == offset
        assert (tmp_path / "copy.rec").read_bytes() == source.read_bytes(), name
        lines = (tmp_path / "copy.idx").read_text().splitlines()
        assert sorted(lines) == sorted(source.with_suffix(".idx").read_text().splitlines()), name


@pytest.mark.parametrize(
    ("label", "flag", "values"),
    [
        (3, 0, [3.0]),
        (2.5, 0, [2.5]),
        (True, 0, [1.0]),
        ([7.0], 1, [7.0]),
        ((4, 1), 2, [4, 1]),
        ([[1, 2], [3, 4]], 4, [1, 2, 3, 4]),
    ],
)
def test_pack_record_follows_mxnet(label: object, flag: int, values: list[float]) -> None:
    header, payload = unpack(pack_record(label, b"data", 2**64 - 1, 5))  # type: ignore[arg-type]
    assert (header.flag, header.label.tolist(), header.id, header.id2, payload) == (flag, values, 2**64 - 1, 5, b"data")


def test_nothing_is_left_of_a_set_that_failed(tmp_path: Path) -> None:
    def write() -> None:
        with FaceSetWriter(tmp_path / "set", 2, (16, 16)) as writer:
            writer.add(jpeg(0), 0)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert list((tmp_path / "set").iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return RECORD_LIMIT

    def twice(key: int | str) -> None:
        with RecordWriter(tmp_path / "x") as writer:
            writer.write(key, b"a")
            writer.write(key, b"b")

    def huge() -> None:
        with RecordWriter(tmp_path / "x") as writer:
            writer.write(0, Huge())

    for key in (5, "five"):
        with pytest.raises(DataError, match=f"key {key} was given twice"):
            twice(key)
    with pytest.raises(DataError, match="shorter than 2\\^29"):
        huge()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "what"),
    [([0, 2], "out of range for 2 classes"), ([1, 0], "must come sorted"), ([-1], "out of range"), ([], "no samples")],
)
def test_face_set_refuses_bad_labels(tmp_path: Path, labels: list[int], what: str) -> None:
    with pytest.raises(DataError, match=what):
        write_face_set(tmp_path, ((jpeg(i), label) for i, label in enumerate(labels)), 2, (16, 16))


def test_insightface_layout(tmp_path: Path) -> None:
    write_face_set(tmp_path, [(jpeg(0), 0), (jpeg(1), 0), (jpeg(2), 2)], 3, (16, 16))
    file = RecordFile(tmp_path / "train.rec")
    assert file.keys.tolist() == [1, 2, 3, 4, 5, 6, 0]
    header = file.headers()
    assert header.label0.tolist() == [0, 0, 2, 1, 3, 3, 4]
    assert header.label1[3:].tolist() == [3, 3, 4, 7]  # class 1 has no image: an empty range
    assert header.flag.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert (tmp_path / "property").read_text() == "3,16,16\n"
    data = open_dataset(tmp_path)
    assert (len(data), data.num_classes, data.size, data.labels().tolist()) == (3, 3, (16, 16), [0, 0, 2])


def test_companion_fields_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fields = {
        "landmarks5": Field("points", ((0, 1), (3, 4))),
        "parsing": Field("label_map", ((4, 5),)),
        "occlusion": Field("mask"),
        "flags": Field("flag"),
        "pose": Field("scalar"),
    }
    samples = [
        {
            "landmarks5": rng.uniform(0, 15, (5, 2)).astype(np.float32),
            "parsing": rng.integers(0, 19, (16, 16), np.uint8),
            "occlusion": 255 * rng.integers(0, 2, (16, 16)).astype(np.uint8),
            "flags": bool(i % 2),
            "pose": rng.normal(size=3).astype(np.float32),
        }
        for i in range(5)
    ]
    write_face_set(tmp_path, ((jpeg(i), i // 2, s) for i, s in enumerate(samples)), 3, (16, 16), fields=fields)
    data = open_dataset(tmp_path, fields=("image", "label", "landmarks", "parsing", "mask", "flag", "pose"), threads=2)
    assert data.kinds["landmarks"] == fields["landmarks5"]
    assert data.kinds["parsing"].swaps == ((4, 5),)
    order = np.array([3, 0, 4])
    out = data.allocate(3)
    data.read(order, out)
    for row, i in enumerate(order.tolist()):
        np.testing.assert_array_equal(out["image"][row].numpy(), decoded(i))
        np.testing.assert_array_equal(out["landmarks"][row].numpy(), samples[i]["landmarks5"])
        np.testing.assert_array_equal(out["parsing"][row].numpy(), samples[i]["parsing"])
        np.testing.assert_array_equal(out["mask"][row].numpy(), samples[i]["occlusion"])
        np.testing.assert_array_equal(out["pose"][row].numpy(), samples[i]["pose"])
        assert bool(out["flag"][row]) is samples[i]["flags"]


def test_swapped_channels_are_put_right(tmp_path: Path) -> None:
    """A set packed from swapped arrays says so in its card, and is read as true RGB."""
    from facex.data.imageio import encode_png

    swapped = encode_png(picture(1)[..., ::-1])
    write_face_set(tmp_path, [(swapped, 0)], 1, (16, 16), color="bgr")
    data = open_dataset(tmp_path)
    out = data.allocate(1)
    data.read([0], out)
    np.testing.assert_array_equal(out["image"][0].numpy(), picture(1))
