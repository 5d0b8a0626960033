"""Runners: record files with their expectations, corrupt record files, and the record reader case of MagFace's
goldens."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from facex.data.dataset import open_dataset
from facex.data.recordio import RecordFile
from facex.data.sources.recordset import find_layout
from facex.errors import RecordError
from tests.golden.case import Case
from tests.golden.corrupt_records import run_corrupt


def _sha(data: bytes | np.ndarray) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()).hexdigest()


def _odd_jpeg(payload: bytes) -> bool:
    """Whether decoders differ by a grey level or two: CMYK, and chroma that is halved in height alone (4:4:0)."""
    at = payload.find(b"\xff\xc0")
    if payload[:2] != b"\xff\xd8" or at < 0:
        return False
    factors = payload[at + 11]
    return payload[at + 9] == 4 or factors & 15 > factors >> 4


def _check_picture(file: RecordFile, row: dict[str, Any], payload: bytes, pixels: dict[str, np.ndarray]) -> None:
    """MXNet's pixels are the ones to meet; where it has none (WebP), a refusal or OpenCV's."""
    key = row["key"]
    allowed = {side["rgb_sha256"] for side in (row.get("mxnet"), row["cv2"]) if side and "rgb_sha256" in side}
    if row.get("mxnet", {}).get("rgb_sha256") and (row.get("max_abs_cv2_mxnet") or 0) > 2:
        allowed = {row["mxnet"]["rgb_sha256"]}  # OpenCV has turned the picture by its EXIF orientation
    try:
        image = file.image(key)
    except RecordError as problem:
        refusable = "error" in row.get("mxnet", {}) or (payload[:2] == b"\xff\xd8" and b"\xff\xd9" not in payload)
        if not refusable:
            raise AssertionError(f"key {key}: {problem}") from problem
        return
    if _sha(image) in allowed:
        return
    name = f"rgb_{key}"
    assert name in pixels, f"key {key}: the pixels differ from every reference decoder's"
    assert _odd_jpeg(payload), f"key {key}: the pixels of an ordinary picture differ"
    difference = int(np.abs(image.astype(int) - pixels[name].astype(int)).max())
    assert difference <= 2, f"key {key}: pixels differ by up to {difference}"


def _check_row(file: RecordFile, row: dict[str, Any], raw: bool, pixels: dict[str, np.ndarray]) -> None:
    key = row["key"]
    record = file.read(key)
    assert len(record) == row["record_len"], f"key {key}: {len(record)} bytes, expected {row['record_len']}"
    assert _sha(record) == row["record_sha256"], f"key {key}: record differs"
    parts = [list(part) for part in file.parts(key)]
    assert parts == row["parts"], f"key {key}: parts {parts[:5]}"
    if raw:
        return
    header, payload = file.unpack(key)
    assert (header.flag, header.id, header.id2) == (row["flag"], row["id"], row["id2"]), f"key {key}: header {header}"
    _check_labels(key, header.label, row)
    assert (len(payload), _sha(payload)) == (row["payload_len"], row["payload_sha256"]), f"key {key}: payload differs"
    if "cv2" in row and payload:
        _check_picture(file, row, payload, pixels)


def _check_labels(key: Any, got: np.ndarray, row: dict[str, Any]) -> None:
    expected = row["label"]
    if isinstance(expected, list):
        wanted = np.array(expected, np.float64).astype(np.float32)
        assert np.array_equal(got, wanted, equal_nan=True), f"key {key}: label {got}, expected {wanted}"
        return
    digest = next(value for name, value in expected.items() if "sha256" in name)
    count = next(value for name, value in expected.items() if "sha256" not in name)
    assert (len(got), _sha(got.astype("<f4"))) == (count, digest), f"key {key}: {len(got)} labels differ"


def _check_set(path: Path, rows: list[dict[str, Any]]) -> None:
    """The same file opened as a training set: images, order and labels by the rule of every published loader."""
    by_key = {row["key"]: row for row in rows}
    first = by_key.get(0)
    if first is not None and first["flag"] > 0 and path.with_suffix(".idx").is_file():
        keys = list(range(1, int(first["label"][0])))
    else:
        keys = [row["key"] for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = open_dataset(path)
    assert data.about.keys.tolist() == keys, "the set's images are not those of the record file"
    assert data.labels().tolist() == [int(by_key[key]["label"][0]) for key in keys], "labels differ"
    out = data.allocate(len(keys))
    data.read(np.arange(len(keys)), out)
    for key, image in zip(keys, out["image"].numpy(), strict=True):
        digest = by_key[key].get("mxnet", by_key[key].get("cv2", {})).get("rgb_sha256")
        assert digest in (None, _sha(image)), f"key {key}: the picture in the batch differs"


def run_expect(case: Case) -> None:
    """X.expect.json or X.expect.npz against X.rec: every record by key and in sequence, headers, pictures."""
    expect = case.expect
    if "rows" not in expect and "key" not in expect:
        file = RecordFile(case.path)
        facts = {"records": len(file), "bytes": file.size}
        assert facts == {name: expect[name] for name in facts}, f"found {facts}"
        return
    if "rows" not in expect:
        return _run_columns(case)
    rows = expect["rows"]
    file = RecordFile(case.path, key_type=str if any(isinstance(row["key"], str) for row in rows) else int)
    assert list(file.keys) == [row["key"] for row in rows], f"keys {list(file.keys)[:5]}"
    assert file.offsets.tolist() == [row["offset"] for row in rows], "offsets differ"
    ordered = sorted(rows, key=lambda row: row["offset"])
    got = [(entry.offset, _sha(entry.data)) for entry in file]
    assert got == [(row["offset"], row["record_sha256"]) for row in ordered], "reading in sequence differs"
    npz = case.path.with_suffix(".rgb.npz")
    pixels = dict(np.load(npz, allow_pickle=False)) if npz.is_file() else {}
    for row in rows:
        _check_row(file, row, bool(expect.get("raw")), pixels)
    if case.path.stem == "train":
        _check_set(case.path, rows)
    return None


def _run_columns(case: Case) -> None:
    columns, file = case.expect, RecordFile(case.path)
    assert np.array_equal(np.asarray(file.keys), columns["key"]), "keys differ"
    assert np.array_equal(file.offsets, columns["offset"]), "offsets differ"
    headers = file.headers()
    assert not headers.failures, str(headers.failures[:1])
    for name, got in {**vars(headers), "payload_len": headers.payload}.items():
        if name in columns:
            assert np.array_equal(got, columns[name], equal_nan=got.dtype.kind == "f"), f"column {name} differs"
    assert sum(1 for _ in file) == len(file), "reading in sequence gives another number of records"
    for row, key in enumerate(columns["key"].tolist()):
        payload = file.unpack(key)[1]
        assert _sha(payload) == columns["payload_sha256"][row].tobytes().hex(), f"key {key}: payload differs"
        if columns["rgb_sha256"][row].any():
            image = file.image(key)
            assert _sha(image) == columns["rgb_sha256"][row].tobytes().hex(), f"key {key}: picture differs"
            assert np.allclose(image.mean((0, 1)), columns["rgb_mean"][row], atol=1e-3), f"key {key}: channel order"


def run_data_recordio(case: Case) -> dict[str, np.ndarray]:
    """Read a record file with a header record as MagFace's and insightface's loaders do."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.rec"
        path.write_bytes(case.inputs[case.params["rec"]].tobytes())
        path.with_suffix(".idx").write_bytes(case.inputs[case.params["idx"]].tobytes())
        file = RecordFile(path)
        layout = find_layout(file)
        keys = np.asarray(file.keys)[layout.positions]
        outputs: dict[str, Any] = {
            "keys_in_idx_order": np.asarray(file.keys),
            "imgidx": keys,
            "image_labels": file.headers(layout.positions).label0.astype(np.int64),
        }
        headers, labels = [], []
        for key in case.params["keys_read"]:
            header, payload = file.unpack(key)
            headers.append([key, header.flag, header.id, header.id2, len(payload)])
            labels.append(np.pad(header.label, (0, max(0, 4 - len(header.label))), constant_values=np.nan))
            outputs[f"payload_{key}"] = np.frombuffer(payload, np.uint8)
            if key in case.params["decodable_keys"]:
                outputs[f"decoded_{key}"] = file.image(key)
        return {**outputs, "headers": np.array(headers, np.int64), "labels": np.array(labels, np.float32)}


KINDS = {
    "recordio/expect": run_expect,
    "recordio/corrupt": run_corrupt,
    "magface/data_recordio": run_data_recordio,
}
