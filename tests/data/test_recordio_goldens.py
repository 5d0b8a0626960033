"""Every golden record file through the harness's runners, and proof that each runner can fail."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

import facex.data.recordio
from tests.golden.discover import find_cases
from tests.golden.harness import run_case
from tests.golden.kinds.recordio import KINDS


def test_a_case_without_its_file_fails_and_the_others_run(tmp_path: Path) -> None:
    entry = {"kind": "data_recordio", "inputs": ["x"], "outputs": {"y": {}}}
    (tmp_path / "cases.json").write_text(json.dumps({"lost": entry, "cut": entry}), encoding="utf-8")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 cut")
    found = [run_case(case, expected, KINDS["magface/data_recordio"]) for case, expected in find_cases(tmp_path, set())]
    assert [ok for ok, _ in found] == [False, False]
    assert [line.split(":")[0] for _, line in found] == ["lost.npz", "cut.npz"]


@pytest.mark.parametrize("folder", ["recordio", "magface"])
def test_goldens(facex_data: Path, folder: str) -> None:
    failures, count = [], 0
    for case, expected in find_cases(facex_data / "goldens" / folder, {"recordio", "magface"}):
        if case.key in KINDS:
            count += 1
            ok, line = run_case(case, expected, KINDS[case.key])
            if not ok:
                failures.append(f"{case.name}: {line}")
    assert count
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("recordio/small", "small/train"), ("recordio/corrupt", "zero_record"), ("magface", "data_recordio_face")],
)
def test_a_changed_constant_fails(facex_data: Path, monkeypatch: pytest.MonkeyPatch, folder: str, name: str) -> None:
    found = find_cases(facex_data / "goldens" / folder, {"recordio", "magface"})
    case, expected = next(pair for pair in found if pair[0].name == name)
    assert run_case(case, expected, KINDS[case.key])[0]
    # id and flag change places: another size of the header, other numbers
    monkeypatch.setattr(facex.data.recordio, "HEADER", struct.Struct("<"))
    assert not run_case(case, expected, KINDS[case.key])[0]
