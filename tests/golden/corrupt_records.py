"""The runner for rows of recordio's corrupt/cases.json: does the product fail, or not, as the row's `expect` says?"""

from __future__ import annotations

import re
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facex.data.dataset import open_dataset
from facex.data.decoding import Decoder
from facex.data.recordio import Entry, RecordFile, read_sequence
from facex.errors import RecordError
from tests.golden.case import Case

MEMORY_LIMIT = 200 << 20
TIME_LIMIT = 1.0  # CPU seconds; good.rec's comparison included


@dataclass
class Found:
    """What one file gave: records in sequence, records by key, pictures by key, and the errors of each."""

    entries: list[Entry] = field(default_factory=list)
    sequential_error: RecordError | None = None
    keys: list[int] = field(default_factory=list)
    by_key: dict[int, bytes] = field(default_factory=dict)
    key_errors: list[RecordError] = field(default_factory=list)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    image_errors: dict[int, RecordError] = field(default_factory=dict)


def _try(errors: list[RecordError], work: Callable[[], Any]) -> Any:
    """Only RecordError may be raised: any other error fails the case."""
    try:
        return work()
    except RecordError as error:
        errors.append(error)
        return None


def _read_everything(rec: Path, idx: Path, expecting: tuple[int, int] | None) -> Found:
    found = Found()
    try:
        for entry in read_sequence(rec):
            found.entries.append(entry)
    except RecordError as error:
        found.sequential_error = error
    file = _try(found.key_errors, lambda: RecordFile(rec, idx))
    if file is None:  # what is readable all the same?
        file = _try([], lambda: RecordFile(rec, idx, check_index=False))
    if file is None:
        return found
    found.keys = [int(key) for key in file.keys]
    for key in found.keys:
        record = _try(found.key_errors, lambda key=key: (file.unpack(key), file.read(key))[1])
        if record is None:
            continue
        found.by_key[key] = record
        try:
            found.images[key] = _decode(file, key, expecting)
        except RecordError as error:
            found.image_errors[key] = error
    return found


def _decode(file: RecordFile, key: int, expecting: tuple[int, int] | None) -> np.ndarray:
    if expecting is None:
        return file.image(key)
    out = np.empty((1, *expecting, 3), np.uint8)
    position = file.positions([key])

    def decode(*arguments: Any) -> Any:
        return file.decode(position, *arguments)

    Decoder(*expecting).fill(out, decode, lambda row: file.unpack(key)[1], lambda row: file.name_at(int(position[0])))
    return out[0]


def _matches(error: BaseException | None, texts: list[str], files: list[str]) -> None:
    assert error is not None, f"no error; expected one of {texts}"
    assert any(text.lower() in str(error).lower() for text in texts), f"error {error} has none of {texts}"
    assert any(name in str(error) for name in files), f"error {error} does not name the file"


def run_corrupt(case: Case) -> None:
    """Open, read in sequence and by key, and decode one corrupt file (or open one corrupt set), within memory and
    time."""
    expect = case.expect["expect"]
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if case.expect["name"].endswith("/"):
            _run_set(case, expect)
        else:
            _run_file(case, expect)
        spent = time.process_time() - start
    if expect.get("warns") and not (expect["at"] != "set" and expect["raises"]):
        assert any(expect["warns"] in str(w.message).lower() for w in caught), f"no warning with {expect['warns']!r}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    assert grown < MEMORY_LIMIT, f"memory grew by {grown >> 20} MB"
    assert spent < TIME_LIMIT, f"took {spent:.1f} s of CPU"


def _run_set(case: Case, expect: dict[str, Any]) -> None:
    folder = case.folder / case.expect["name"]
    errors: list[RecordError] = []
    data = _try(errors, lambda: open_dataset(folder))
    if data is None:
        assert expect["raises"], f"should open, but: {errors[0]}"
        _matches(errors[0], expect["raises"], [folder.name])
        return
    assert expect.get("or_clean"), f"opened; expected one of {expect['raises']}"
    assert len(data) == expect.get("images", len(data)), f"{len(data)} images, expected {expect['images']}"
    assert data.num_classes == expect.get("classes", data.num_classes), f"{data.num_classes} classes"
    data.read(np.arange(len(data)), data.allocate(len(data)))


def _run_file(case: Case, expect: dict[str, Any]) -> None:
    rec, idx = case.folder / case.expect["rec"], case.folder / case.expect["idx"]
    good = {entry.number: entry.data for entry in RecordFile(case.folder / "good.rec")}
    size = re.search(r"expecting (\d+)x(\d+)", expect["at"])
    found = _read_everything(rec, idx, (int(size[2]), int(size[1])) if size else None)
    own = set(expect.get("not_checked", [])) | set(expect.get("bad_keys", []))
    # A record that is bad by its header alone is a record still when it is read raw, in sequence.
    in_sequence = [(e.number, e.data) for e in found.entries] if expect["at"] in ("sequential", "all") else []
    for key, record in [*found.by_key.items(), *in_sequence]:
        assert key in own or record == good.get(key), f"record {key} is not good.rec's"
    files, texts, at = [rec.name, idx.name], expect["raises"], expect["at"].split()[0]
    if at == "sequential":
        _matches(found.sequential_error, texts, files)
    elif at == "open":
        if found.key_errors or not expect.get("or_clean"):
            _matches(found.key_errors[0] if found.key_errors else None, texts, files)
    elif at == "decode":
        _check_decode(case, expect, found, files)
    else:
        assert at == "all", f"unknown operation {expect['at']!r}"
        problem = found.sequential_error or next(iter(found.key_errors), None)
        assert problem is None, f"should be clean, but: {problem}"
    _check_counts(expect, found)


def _check_decode(case: Case, expect: dict[str, Any], found: Found, files: list[str]) -> None:
    reference = RecordFile(case.folder / "good.rec")
    for key in found.keys:
        if key in expect["bad_keys"]:
            if key in found.image_errors or not expect.get("or_clean"):
                _matches(found.image_errors.get(key), expect["raises"], files)
                assert f"key {key}" in str(found.image_errors[key]), "the error does not name the key"
        elif key in found.images:
            assert np.array_equal(found.images[key], reference.image(key)), f"picture {key} differs from good.rec's"
        else:
            raise AssertionError(f"key {key} should decode, but: {found.image_errors.get(key)}")


def _check_counts(expect: dict[str, Any], found: Found) -> None:
    before = expect.get("good_before", 0)
    assert len(found.entries) >= before, f"{len(found.entries)} records before the error, expected {before}"
    for name in ("records", "sequential_records"):
        wanted = expect.get(name, len(found.entries))
        assert len(found.entries) == wanted, f"{len(found.entries)} records in sequence, expected {wanted}"
    if "keys" in expect:
        assert found.keys == expect["keys"], f"keys {found.keys}, expected {expect['keys']}"
    lost = [key for key in expect.get("readable_keys", []) if key not in found.by_key]
    assert not lost, f"keys {lost} should be readable"
