"""`facex jhmfr-eval`, `jhmfr-pack` and `extract` on a converted network: numbers, flags by rule and file, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from facex_jhmfr import JHMFRDetector, eval_command, pack_command
from facex_jhmfr.detect import Detector

from facex.commands import extract
from facex.commands.convert import write_run
from facex.data.verification import load_bin
from facex.errors import ConfigError, VerificationSetError
from plugins.jhmfr.tests.tiny_jhmfr import SHAPE, tuned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, 20 pictures called by their number, and pairs of them: half of them a picture with itself, brightened."""
    root = tmp_path_factory.mktemp("eval")
    arguments = {"embedding_size": 8, "input": {"height": 32, "width": 32}}
    arguments["backbone_options"] = {**SHAPE, "prompt_layers": 2, "prompt_tokens": 3}
    write_run(root / "run", tuned(), "facex_jhmfr.JHMFR", arguments, None, "test")
    rng = np.random.default_rng(0)
    for i in range(0, 20, 2):
        picture = rng.integers(0, 200, (32, 32, 3), np.uint8)
        cv2.imwrite(str(root / f"{i}.jpg"), picture)
        cv2.imwrite(str(root / f"{i + 1}.jpg"), picture + 20)
    pairs = [f"{i} {i + 1} 1" for i in range(0, 20, 2)] + [f"{i} {(i + 3) % 20} 0" for i in range(0, 20, 2)]
    order = [pairs[j] for i in range(10) for j in (i, i + 10)]
    (root / "pair.list").write_text("\n".join(order) + "\n")
    return root


def run(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, float]:
    words = ["--checkpoint", str(folder / "run"), "--pairs", str(folder / "pair.list"), "--root", str(folder)]
    assert eval_command.main([*words, "--device", "cpu", "--json", "-", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_numbers_and_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run(folder, capsys)
    assert plain["pairs"] == 20 and plain["pictures"] == 20 and plain["flagged"] == 0
    assert "accuracy H-M" not in plain
    masked = run(folder, capsys, "--kind", "smfrd")
    assert (masked["flagged"], "accuracy H-M" in masked) == (20, True)
    by_name = run(folder, capsys, "--kind", "smfrd", "--flags", "by_name", "--folds", "10", "--norm", "train")
    assert by_name["flagged"] == 10
    (folder / "flags.txt").write_text("".join(f"{i}.jpg {int(i < 5)}\n" for i in range(20)))
    assert run(folder, capsys, "--flags", str(folder / "flags.txt"), "--flip", "tensor")["flagged"] == 5
    assert run(folder, capsys, "--flags", "both")["pairs"] == 20
    write_run(folder / "detector", JHMFRDetector(), "facex_jhmfr.JHMFRDetector", {}, None, "test")
    names = [f"{i}.jpg" for i in range(20)]
    seen = Detector(folder / "detector").files(folder, names)
    assert run(folder, capsys, "--flags", str(folder / "detector"))["flagged"] == seen.sum()


def test_table_and_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_words = ["--checkpoint", str(folder / "run"), "--pairs", str(folder / "pair.list"), "--root", str(folder)]
    eval_command.main([*run_words, "--device", "cpu", "--json", str(folder / "out.json")])
    shown = capsys.readouterr().out
    assert shown.startswith("accuracy       ") and "pictures       20" in shown
    assert json.loads((folder / "out.json").read_text())["pairs"] == 20


def test_what_cannot_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.list").write_text("\n")
    for more, error, message in (
        (("--folds", "0"), ConfigError, "must be at least 1"),
        (("--batch-size", "0"), ConfigError, "at least one picture"),
        (("--pairs", str(folder / "empty.list")), VerificationSetError, "holds no pairs"),
        (("--pairs", str(folder / "none.list")), VerificationSetError, "cannot be read as a pair list"),
        (("--pairs", str(folder / "list.mat")), VerificationSetError, "agedb_30.bin"),
        (("--flags", "guess"), ConfigError, "neither one of all_masked, by_name, holistic, both, nor a file"),
        (("--flags", str(folder / "0.jpg")), VerificationSetError, "cannot be read as a list of flags"),
        (("--root", str(folder / "run")), VerificationSetError, "cannot be read as a picture"),
    ):
        with pytest.raises(error, match=message):
            run(folder, capsys, *more)


def test_embeddings_are_extracted_under_flags(folder: Path, tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / "faces" / f"p{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / f"{i}.jpg").read_bytes())
    words = ["--checkpoint", str(folder / "run"), "--data", str(tmp_path / "faces"), "--out", str(tmp_path / "x.npy")]

    def rows(*more: str) -> np.ndarray:
        extract.main([*words, "--device", "cpu", "--batch-size", "3", *more])
        return np.load(tmp_path / "x.npy")

    holistic, masked, both = (rows("--options", f"{{inference_flag: {f}}}") for f in ("holistic", "masked", "both"))
    np.testing.assert_array_equal(rows(), holistic)
    assert both.shape == (4, 16) and not np.allclose(holistic, masked)
    (tmp_path / "flags.txt").write_text("p1/3.jpg 0\np0/0.jpg 1\np0/2.jpg 0\np1/1.jpg 1\n")
    given = rows("--flags", str(tmp_path / "flags.txt"))
    worn = np.array([True, False, True, False])[:, None]  # p0/0, p0/2, p1/1, p1/3
    np.testing.assert_allclose(given, np.where(worn, masked, holistic), rtol=1e-5, atol=1e-6)
    np.save(tmp_path / "flags.npy", worn[:, 0])
    np.testing.assert_array_equal(rows("--flags", str(tmp_path / "flags.npy")), given)
    with pytest.raises(VerificationSetError, match="cannot be read as a list of flags: No such file"):
        rows("--flags", str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="inference_flags"):
        rows("--options", "{inference_flags: both}")


def test_a_list_becomes_a_set_with_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pairs", str(folder / "pair.list"), "--root", str(folder), "--kind", "smfrd"]
    pairs = [line.split(" ") for line in (folder / "pair.list").read_text().splitlines()]
    sides = [int(name) for a, b, _ in pairs for name in (a, b)]
    for flags, masked in (("by_name", lambda i: i % 2 == 0), ("all_masked", lambda i: True)):
        pack_command.main([str(folder / f"{flags}.bin"), *words, "--flags", flags])
        found = load_bin(folder / f"{flags}.bin")
        assert found.issame.tolist() == [same == "1" for _, _, same in pairs]
        assert found.entries == [(folder / f"{i}.jpg").read_bytes() for i in sides]
        assert found.flags.tolist() == [masked(i) for i in sides]
    assert "by_name.bin: 20 pairs of 20 pictures, 10 of them flagged" in capsys.readouterr().out


def test_what_cannot_be_packed(folder: Path, tmp_path: Path) -> None:
    words = ["--pairs", str(folder / "pair.list"), "--root", str(folder)]
    with pytest.raises(ConfigError, match=r"called NAME\.bin"):
        pack_command.main([str(tmp_path / "set"), *words])
    (tmp_path / "old.bin").touch()
    with pytest.raises(ConfigError, match="exists already"):
        pack_command.main([str(tmp_path / "old.bin"), *words])
    with pytest.raises(ConfigError, match="neither one of by_name, all_masked, holistic, nor a file"):
        pack_command.main([str(tmp_path / "set.bin"), *words, "--flags", "both"])
    with pytest.raises(VerificationSetError, match=r"0\.jpg: cannot be read as a picture: No such file"):
        pack_command.main([str(tmp_path / "set.bin"), *words, "--root", str(tmp_path)])
    for name in ("0.jpg", "1.jpg"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:200])
    with pytest.raises(VerificationSetError, match=r"0\.jpg: cannot be read as a picture"):
        pack_command.main([str(tmp_path / "set.bin"), *words, "--root", str(tmp_path)])
    assert not list(tmp_path.glob("set*"))
