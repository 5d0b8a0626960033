"""RecordFile: threads, fork, pickling, offsets beyond 4 GiB, hostile files, files cut while they are open."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from facex.data import RecordFile, RecordWriter, open_dataset
from facex.data.imageio import MAX_PIXELS
from facex.data.writer import MAGIC, pack_record
from facex.errors import RecordError
from tests.data.face_files import decoded, jpeg, write_set


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Ten image records; the last one in four parts."""
    with RecordWriter(tmp_path / "some") as writer:
        for key in range(9):
            writer.write(key, pack_record(key, jpeg(key), key))
        writer.write(9, pack_record(9.0, b"abcd" + MAGIC + b"efgh" + MAGIC + MAGIC + b"z", 9))
    return tmp_path / "some.rec"


def test_by_key_and_in_sequence_agree(records: Path) -> None:
    file = RecordFile(records)
    assert [entry.data for entry in file] == [file.read(key) for key in range(10)]
    assert [entry.offset for entry in file] == file.offsets.tolist()
    header, payload = file.unpack(9)
    assert (header.flag, header.label.tolist(), header.id) == (0, [9.0], 9)
    assert payload == b"abcd" + MAGIC + b"efgh" + MAGIC + MAGIC + b"z"
    assert [flag for flag, _ in file.parts(9)] == [1, 2, 2, 3]
    np.testing.assert_array_equal(file.image(3), decoded(3))
    np.testing.assert_array_equal(file.image(3, color="bgr"), decoded(3)[..., ::-1])


def test_keys_and_membership(records: Path) -> None:
    file = RecordFile(records)
    assert 4 in file
    assert 10 not in file
    assert file.positions([3, 99, 0]).tolist() == [3, -1, 0]
    with pytest.raises(RecordError, match="no key 99"):
        file.read(99)


def test_without_index_the_keys_are_running_numbers(records: Path) -> None:
    indexed = RecordFile(records)
    records.with_suffix(".idx").unlink()
    file = RecordFile(records)
    assert file.keys.tolist() == list(range(10))
    assert file.offsets.tolist() == indexed.offsets.tolist()


def test_many_threads_read_the_same_file(records: Path) -> None:
    file = RecordFile(records)
    expected = [file.read(key) for key in range(10)]
    order = np.random.default_rng(0).integers(0, 10, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(file.read, order)) == [expected[key] for key in order]


def _digest(folder: Path, threads: int) -> int:
    data = open_dataset(folder, threads=threads)
    return _sum(data)


def _sum(data: object) -> int:
    out = data.allocate(12)  # type: ignore[attr-defined]
    data.read(np.arange(12), out)  # type: ignore[attr-defined]
    return int((out["image"].long() * 7919 + out["label"].view(-1, 1, 1, 1)).sum())


def _child(data: object, queue: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    queue.put(_sum(data))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_read_what_the_parent_reads(tmp_path: Path, method: str) -> None:
    data = open_dataset(write_set(tmp_path / "set"), threads=3)
    expected = _sum(data)  # the parent's threads exist before the fork
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    children = [context.Process(target=_child, args=(data, queue)) for _ in range(2 if method == "fork" else 1)]
    for child in children:
        child.start()
    assert [queue.get() for _ in children] == [expected] * len(children)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert _sum(data) == expected


def test_pickle_goes_by_path(tmp_path: Path) -> None:
    data = open_dataset(write_set(tmp_path / "set"), threads=2)
    blob = pickle.dumps(data)
    assert len(blob) < 10_000, "the records themselves must not be in the pickle"
    assert _sum(pickle.loads(blob)) == _sum(data)


def test_threads_do_not_change_the_batch(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    assert len({_digest(folder, threads) for threads in (1, 2, 5, 40)}) == 1


def test_offsets_beyond_4_gib(records: Path) -> None:
    base = 5 << 30
    index = [line.split("\t") for line in records.with_suffix(".idx").read_text().splitlines()]
    content = records.read_bytes()
    with open(records, "r+b") as file:  # sparse: the hole takes no space
        file.seek(base)
        file.write(content)
    with open(records.with_suffix(".idx"), "a") as file:
        file.writelines(f"{int(key) + 100}\t{int(offset) + base}\n" for key, offset in index)
    both = RecordFile(records)
    assert os.stat(records).st_blocks * 512 < 1 << 24
    for key in range(10):
        assert both.read(key + 100) == both.read(key)
    np.testing.assert_array_equal(both.image(108), decoded(8))
    assert both.headers().payload[10:].tolist() == both.headers().payload[:10].tolist()


def test_a_file_cut_while_it_is_open(records: Path) -> None:
    file = RecordFile(records)
    os.truncate(records, file.size // 2)
    for work in (lambda: file.read(9), lambda: list(file), lambda: file.headers(), lambda: file.image(0)):
        with pytest.raises(RecordError, match=r"some\.rec.*truncated while open"):
            work()
    out = np.empty((1, 16, 16, 3), np.uint8)
    status, _, failures = file.decode(np.array([0]), out, False, False, MAX_PIXELS, 1)
    assert status[0] == 2
    assert "truncated while open" in failures[0][1]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("5", "line 3 .* expected 'key TAB offset'"),
        ("x\t0", "line 3 .* key is not a whole number"),
        ("5\t0x10", "line 3 .* offset is not a whole number"),
        ("5\t-4", "line 3 .* negative"),
        ("5\t6", "line 3 .* multiple of 4"),
        ("5\t99999999999999999999999", "line 3 .* past end of file"),
        ("5\t400000000", "key 5 at offset 400000000 lies past end of file"),
        ("1\t0", "duplicate key 1"),
        ("99999999999999999999999\t0", "line 3 .* key is not a whole number of 64 bits"),
    ],
)
def test_a_bad_index_names_file_and_line(records: Path, line: str, what: str) -> None:
    offset = RecordFile(records).offset(1)
    records.with_suffix(".idx").write_text(f"0\t0\n1\t{offset}\n{line}\n")
    with pytest.raises(RecordError, match=rf"some\.idx: bad index: .*{what}"):
        RecordFile(records)


def test_unchecked_index_fails_at_the_key(records: Path) -> None:
    records.with_suffix(".idx").write_text("0\t0\n1\t400000000\n")
    file = RecordFile(records, check_index=False)
    assert file.unpack(0)[0].id == 0
    with pytest.raises(RecordError, match=r"some\.rec: key 1 at offset 400000000: index past end of file"):
        file.read(1)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_is_an_error_or_a_record(records: Path, seed: int) -> None:
    """No crash, no other exception, whatever bytes the file holds."""
    rng = np.random.default_rng(seed)
    content = np.frombuffer(records.read_bytes(), np.uint8)
    for _ in range(150):
        damaged = content.copy()
        at = rng.integers(0, len(damaged), rng.integers(1, 20))
        damaged[at] = rng.integers(0, 256, len(at))
        records.write_bytes(damaged[: rng.integers(1, len(damaged) + 1)].tobytes())
        file = RecordFile(records, check_index=False)
        for work in (lambda file=file: list(file), *(lambda key=key, file=file: file.image(key) for key in range(10))):
            try:
                work()
            except RecordError as error:
                assert "some.rec" in str(error)  # noqa: PT017


@pytest.mark.parametrize("path", ["missing.rec", "."])
def test_not_a_file(tmp_path: Path, path: str) -> None:
    with pytest.raises(RecordError, match=r"cannot open|not a regular file"):
        RecordFile(tmp_path / path)
