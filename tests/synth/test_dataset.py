"""Data sets on disk: layout, fields, verification pairs, reuse, and independence of the number of workers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facex.commands import synth as command
from facex.data.dataset import open_dataset
from facex.data.verification import load_bin
from facex.errors import ConfigError, DataError
from facex.synth import Renderer
from facex.synth import dataset as module
from facex.synth.dataset import FIELDS, SynthOptions, write_dataset
from facex.synth.pairs import FIRST_HELD_OUT, make_pairs

SMALL = SynthOptions(identities=5, images_per_identity=4, seed=3, pairs=20, val_identities=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synth") / "set"
    seen: list[tuple[int, int]] = []
    report = write_dataset(path, SMALL, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert (report.images, report.pairs, report.reused) == (20, 20, False)
    assert seen[-1] == (60, 60)
    return path


def test_files(folder: Path) -> None:
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "train.rec", "train.idx", "property", "facex.json", "landmarks5.npy", "landmarks68.npy", "parsing.rec",
        "parsing.idx", "occlusion.rec", "occlusion.idx", "flags.npy", "val.bin", "synth.json",
    }  # fmt: skip
    assert (folder / "property").read_text().strip() == "5,112,112"


def test_reads_back_with_every_field(folder: Path) -> None:
    data = open_dataset(folder, fields=("image", "label", *FIELDS))
    assert (len(data), data.num_classes, data.color, tuple(data.size)) == (20, 5, "rgb", (112, 112))
    assert data.labels().tolist() == [i for i in range(5) for _ in range(4)]
    assert data.kinds["parsing"].swaps == ((4, 5), (6, 7), (8, 9))
    assert (36, 45) in data.kinds["landmarks68"].swaps
    assert (0, 1) in data.kinds["landmarks5"].swaps
    out = data.allocate(20, False)
    data.read(np.arange(20), out)
    for row, (identity, index) in enumerate((i, k) for i in range(5) for k in range(4)):
        face = Renderer(SMALL.seed).render(identity, index)
        decoded = cv2.imdecode(np.frombuffer(face.jpeg(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.array_equal(out["image"][row].numpy(), decoded)
        assert np.array_equal(out["parsing"][row].numpy(), face.parsing)
        assert np.array_equal(out["occlusion"][row].numpy(), face.occlusion)
        assert torch.equal(out["landmarks68"][row], torch.from_numpy(face.landmarks68))
        assert torch.equal(out["landmarks5"][row], torch.from_numpy(face.landmarks5))
        assert bool(out["flags"][row]) == face.flags["masked"]


def test_verification_set_reads_back(folder: Path) -> None:
    pairs = load_bin(folder / "val.bin")
    assert len(pairs.entries) == 40
    assert list(pairs.issame) == [True, False] * 10
    first = make_pairs(SMALL.seed, 20, 20)[0]
    assert pairs.entries[0] == Renderer(SMALL.seed).render(*first.first).jpeg()


def test_workers_change_nothing(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "two", SMALL, workers=2)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_second_run_reuses_and_other_options_do_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "train.rec").stat().st_mtime_ns
    assert write_dataset(folder, SMALL, workers=1).reused
    assert (folder / "train.rec").stat().st_mtime_ns == before
    other = SynthOptions(
        **{**json.loads((folder / "synth.json").read_text())["options"], "seed": 4, "fields": tuple(FIELDS)}
    )
    assert not module.finished(folder, other)
    (folder / "val.bin").rename(folder / "away")
    assert not module.finished(folder, SMALL)
    (folder / "away").rename(folder / "val.bin")


def test_a_run_that_is_stopped_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_bin", stop)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, SMALL, workers=1)
    assert list(tmp_path.iterdir()) == []
    assert not module.finished(tmp_path, SMALL)


def _die(_: object) -> None:
    os.kill(os.getpid(), 9)


def test_a_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_render", _die)
    with pytest.raises(DataError, match="a rendering process died"):
        write_dataset(tmp_path, SMALL, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_pairs_are_balanced_and_folds_disjoint() -> None:
    pairs = make_pairs(0)
    assert len(pairs) == 600
    folds = [pairs[i : i + 60] for i in range(0, 600, 60)]
    people = [{who for pair in fold for who, _ in (pair.first, pair.second)} for fold in folds]
    assert sum(map(len, people)) == len(set.union(*people)) == 160
    assert min(set.union(*people)) >= FIRST_HELD_OUT
    for fold in folds:
        assert sum(pair.same for pair in fold) == 30
    for pair in pairs:
        assert (pair.first[0] == pair.second[0]) == pair.same
    pictures = [picture for pair in pairs for picture in (pair.first, pair.second)]
    assert len(set(pictures)) == 1200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": 0}, "at least 1"),
        ({"pairs": 30}, "multiple of 20"),
        ({"val_identities": 10}, "at least 20 identities"),
        ({"size": 8}, "size must be"),
        ({"fields": ("depth",)}, "unknown field 'depth'"),
        ({"identities": 2_000_000}, "held out"),
    ],
)
def test_wrong_options_are_named(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        write_dataset(tmp_path, SynthOptions(**change), workers=1)
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "out"), "--identities", "2", "--images-per-identity", "2", "--split", "train"]
    arguments += ["--fields", "[parsing]", "--workers", "1", "--preview", str(tmp_path / "sheet.png")]
    assert command.main(arguments) == 0
    assert "4 training images of 2 people" in capsys.readouterr().out
    assert command.main(arguments) == 0
    assert "there already" in capsys.readouterr().out
    assert not (tmp_path / "out" / "val.bin").exists()
    assert not (tmp_path / "out" / "landmarks5.npy").exists()
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 2 * 224, 8 * 224, 3)
    assert sheet.std() > 20
