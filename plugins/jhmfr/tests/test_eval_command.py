"""`facex jhmfr-eval` on a converted network: numbers, flags by rule and file, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from facex_jhmfr import JHMFRDetector, eval_command
from facex_jhmfr.detect import Detector

from facex.commands.convert import write_run
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
        (("--pairs", str(folder / "empty.list")), VerificationSetError, "holds no pairs"),
        (("--pairs", str(folder / "none.list")), VerificationSetError, "cannot be read as a pair list"),
        (("--pairs", str(folder / "list.mat")), VerificationSetError, "agedb_30.bin"),
        (("--flags", "guess"), VerificationSetError, "cannot be read as a list of flags"),
        (("--root", str(folder / "run")), VerificationSetError, "cannot be read as a picture"),
    ):
        with pytest.raises(error, match=message):
            run(folder, capsys, *more)
