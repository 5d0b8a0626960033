"""`facex convert` with wrong input: each a clear message and exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facex import cli
from facex.classification import Recogniser
from facex.commands.convert import read_centres, write_run
from facex.heads.margins import ArcFace
from facex.train.load_run import load_run

MARGIN = {"class_path": "facex.heads.margins.ArcFace"}
SMALL = {"backbone": "resface_xs", "embedding_size": 8}


def recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(ArcFace(), "resface_xs", 8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    centres = torch.arange(24.0).view(3, 8)
    write_run(tmp_path / "run", recogniser(), "Recogniser", {**SMALL, "margin": MARGIN}, centres, "test")
    return tmp_path / "run"


def test_a_written_run_loads_with_its_centres(run: Path) -> None:
    loaded = load_run(run)
    assert torch.equal(loaded.method.backbone.conv1.weight, recogniser().backbone.conv1.weight)
    assert torch.equal(read_centres(loaded.path / "head"), torch.arange(24.0).view(3, 8))
    assert loaded.meta["num_classes"] == 3
    assert loaded.meta["input"]["color"] == "rgb"


def test_any_backbone_goes_through_a_bare_file(run: Path, tmp_path: Path) -> None:
    assert cli.main(["convert", "--checkpoint", str(run), "unused", "--to", "nothing"]) == 2
    assert cli.main(["convert", str(run), str(tmp_path / "b.pt"), "--to", "insightface"]) == 0
    options = '{"embedding_size": 8, "margin": {"class_path": "ArcFace"}}'
    command = ["convert", str(tmp_path / "b.pt"), str(tmp_path / "again"), "--method", "Recogniser"]
    assert cli.main([*command, "--backbone", "resface_xs", "--options", options]) == 0
    assert read_centres(load_run(tmp_path / "again").path / "head") is None


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["convert"], "needs an input"),
        (["convert", "{tmp}/none.pth", "{tmp}/x"], "no such file or folder"),
        (["convert", "{run}"], "needs an output"),
        (["convert", "{run}", "{tmp}/o.pth", "--to", "insightfase"], "did you mean 'insightface'"),
        (["convert", "{run}", "{tmp}"], "is a folder"),
        (["convert", "{tmp}/foreign.pt", "{tmp}/x"], "recognises this file"),
        (["convert", "{tmp}/foreign.pt", "{tmp}/x", "--options", "{{"], "is not JSON"),
        (["convert", "{tmp}/foreign.pt", "{run}"], "is there already"),
        (["convert", "{tmp}/foreign.pt", "{tmp}/foreign.pt"], "is there already"),
        (["convert", "{tmp}/foreign.pt", "{tmp}/x", "--method", "MagFase"], "no method 'MagFase'"),
        (["convert", "{run}", "--world-size", "0"], "at least 1"),
    ],
)
def test_wrong_input(
    command: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    assert cli.main([part.format(tmp=tmp_path, run=run) for part in command]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
