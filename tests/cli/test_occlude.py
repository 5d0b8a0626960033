"""`facex occlude`: the contact sheet, the summary, wrong input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facex import cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of two people with three pictures each."""
    rng = np.random.default_rng(0)
    for person in ("a", "b"):
        (tmp_path / "set" / person).mkdir(parents=True)
        for number in range(3):
            picture = cv2.resize(rng.integers(0, 256, (14, 14, 3), np.uint8), (112, 112))
            assert cv2.imwrite(str(tmp_path / "set" / person / f"{number}.png"), picture)
    return tmp_path / "set"


def test_a_sheet_of_a_policy(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["occlude", str(folder), "--preview", str(out), "--policy", "{ellipse: 1.0}", "--columns", "4"]
    assert cli.main([*arguments, "--count", "5"]) == 0
    sheet = cv2.imread(str(out))
    assert sheet.shape == (2 * 2 * 2 * 112, 4 * 2 * 112, 3)  # two rows of pictures, two of masks, twice as large
    red = (sheet[224:448, :224].astype(int) @ (-1, -1, 2)) > 60  # where the first mask is
    assert 0.1 < red.mean() < 0.5
    assert capsys.readouterr().out.startswith("ellipse: 5 pictures, ")
    first = out.read_bytes()
    assert cli.main([*arguments, "--count", "5"]) == 0 and out.read_bytes() == first
    assert cli.main([*arguments, "--count", "5", "--seed", "1"]) == 0 and out.read_bytes() != first


def test_a_sheet_of_masks(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "masks.jpg"
    assert cli.main(["occlude", str(folder), "--preview", str(out), "--masks", "3d"]) == 0
    assert cv2.imread(str(out)).shape == (448, 8 * 224, 3)
    assert "mask: 6 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "ms1n"], "did you mean 'ms1m'"),
        (["--policy", "{glases: 0.5}"], "did you mean 'glasses'"),
        (["--policy", "{glasses: 2.0}"], "no probability"),
        (["--count", "0"], "at least 1"),
        (["--preview", "sheet.gif"], ".png or .jpg"),
        (["--assets", "{hand: nowhere}"], "no such folder"),
    ],
)
def test_wrong_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["occlude", str(folder), "--preview", str(tmp_path / "x.png"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert cli.main(["occlude", str(tmp_path / "none"), "--preview", str(tmp_path / "x.png")]) == 2
    assert not (tmp_path / "x.png").exists()
