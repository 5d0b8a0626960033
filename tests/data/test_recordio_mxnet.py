"""MXNet reads what facex packed, and facex reads what MXNet packed. Runs where FACEX_MXNET_PYTHON names the
interpreter of an environment with mxnet 1.9.1 and numpy 1.23.5 (`make mxnet-env` makes one)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex.data import RecordFile, RecordWriter
from facex.data.pack import pack
from facex.data.writer import MAGIC, pack_record
from tests.data.face_files import jpeg, write_image_folder, write_set

PYTHON = os.environ.get("FACEX_MXNET_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="FACEX_MXNET_PYTHON is not set (make mxnet-env makes the environment)"
)


def _mxnet(*arguments: str) -> Any:
    script = Path(__file__).with_name("mxnet_side.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [PYTHON, str(script), *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def _compare_with_mxnet(prefix: Path) -> None:
    answer = _mxnet("read", str(prefix))
    file = RecordFile(prefix.with_suffix(".rec"))
    assert [row["key"] for row in answer["rows"]] == file.keys.tolist()
    assert answer["sequence"] == [hashlib.sha256(entry.data).hexdigest() for entry in file]
    for row in answer["rows"]:
        header, payload = file.unpack(row["key"])
        assert row["sha"] == hashlib.sha256(file.read(row["key"])).hexdigest()
        assert (row["flag"], row["id"], row["id2"], row["payload"]) == (
            header.flag,
            header.id,
            header.id2,
            len(payload),
        )
        assert row["label"] == header.label.astype(float).tolist()
        if "rgb" in row:
            assert row["rgb"] == hashlib.sha256(file.image(row["key"]).tobytes()).hexdigest()


def test_mxnet_reads_a_packed_set(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "out")
    _compare_with_mxnet(tmp_path / "out" / "train")


def test_mxnet_reads_records_with_magics(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with RecordWriter(tmp_path / "x") as writer:
        for key in range(40):
            pieces = [MAGIC if rng.random() < 0.5 else rng.bytes(int(rng.integers(0, 6))) for _ in range(key)]
            writer.write(key, pack_record([-1804698880.0] * (key % 3), b"".join(pieces), key))
    _compare_with_mxnet(tmp_path / "x")


def test_facex_reads_what_mxnet_wrote(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg(0, 24, 20))
    rows = _mxnet("write", str(tmp_path / "x"))["rows"]
    file = RecordFile(tmp_path / "x.rec")
    assert file.keys.tolist() == [row["key"] for row in rows]
    for row in rows:
        assert hashlib.sha256(file.read(row["key"])).hexdigest() == row["sha"]
        assert file.unpack(row["key"])[0].label.tolist() == row["label"]
    _compare_with_mxnet(tmp_path / "x")
    with RecordWriter(tmp_path / "again") as writer:
        for key in file.keys.tolist():
            writer.write(key, file.read(key))
    assert (tmp_path / "again.rec").read_bytes() == (tmp_path / "x.rec").read_bytes()
    assert (tmp_path / "again.idx").read_bytes() == (tmp_path / "x.idx").read_bytes()


def test_mxnet_finds_every_record_from_the_middle(tmp_path: Path) -> None:
    """MXNet cuts a file into byte ranges and looks for magics: each record is found exactly once."""
    write_set(tmp_path / "set", classes=1, per_class=1)
    with RecordWriter(tmp_path / "x") as writer:
        for key in range(24):
            comment = b"\xff\xfe" + (2 + 4 * 64).to_bytes(2, "big") + MAGIC * 64  # a JPEG comment full of magics
            writer.write(key, pack_record(key, jpeg(key)[:2] + comment + jpeg(key)[2:], key))
    for parts in (1, 3):
        assert _mxnet("split", str(tmp_path / "x"), str(parts))["labels"] == list(range(24))
