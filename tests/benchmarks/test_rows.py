"""Every benchmark runs without an installation, from any folder, and prints rows of one form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = {
    "facet": ["--tiny", "--repeats", "1", "--device", "cpu"],
    "lafs": ["--tiny", "--repeats", "1", "--device", "cpu"],
    "margin_softmax": ["--classes", "2000", "--batch", "8", "--repeats", "1", "--dtypes", "fp32", "--device", "cpu"],
    "mask_aggregate": ["--quick", "--repeats", "1", "--peers", "eager", "--device", "cpu"],
    "occluders": ["--batch", "16", "--batches", "1"],
    "recordio": ["--images", "200", "--batch", "50", "--repeats", "1"],
    "magface_fp16": ["--steps", "2", "--device", "cpu"],
}


def test_every_benchmark_is_tried_here() -> None:
    assert {path.stem for path in FOLDER.glob("[a-z]*.py")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_rows(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--json", *SMALL[name]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    assert rows
    for row in rows:
        assert set(row) == {"case", "device", "metric", "ours", "peer", "peer_name", "ratio"}
