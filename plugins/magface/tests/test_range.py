"""The proposal for fine-tuning, and the command that measures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facex_magface.magnitudes import SAFETY, lambda_bound, propose, summarise

from facex import cli
from facex.models import create_backbone


def test_bound_is_the_printed_one() -> None:
    assert lambda_bound(10, 110, 0.45, 0.8, 64) == pytest.approx(22.5867, abs=1e-4)
    assert lambda_bound(10, 110, 0.45, 0.8, 32) == pytest.approx(22.5867 / 2, abs=1e-4)
    assert lambda_bound(1, 51, 0.45, 1.0, 64) < 5  # the README's tip for ArcFace models is feasible


@pytest.mark.parametrize("form", ["arc", "cos"])
@pytest.mark.parametrize("level", [0.02, 1.0, 22.0, 400.0])
def test_proposal_encloses_and_is_feasible(level: float, form: str) -> None:
    lengths = level * np.random.default_rng(0).uniform(0.7, 2.0, 1000)
    p = propose(lengths, scale=30.0, form=form)
    assert 0 < p.l_a < lengths.min()
    assert p.u_a > lengths.max()
    assert p.lambda_min == lambda_bound(p.l_a, p.u_a, p.l_margin, p.u_margin, 30.0)
    assert p.lambda_min * SAFETY <= p.lambda_g <= p.lambda_min * SAFETY * 1.11
    assert (p.l_margin, p.u_margin) == ((0.45, 0.8) if form == "arc" else (0.35, 0.8))


def test_published_range_from_published_lengths() -> None:
    p = propose(np.array([14.5, 22.2, 45.3]))  # issue #42: the first iteration of a real run
    assert (p.l_a, p.u_a) == (13.0, 110.0)


@pytest.mark.parametrize("bad", [[], [0.0, 1.0], [1.0, np.nan]])
def test_useless_lengths_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and positive"):
        propose(np.array(bad))


def test_summary() -> None:
    s = summarise(np.arange(1.0, 102.0))
    assert (s["count"], s["min"], s["max"], s["mean"], s["p50"]) == (101, 1, 101, 51, 51)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for person in ("a", "b"):
        (tmp_path / "faces" / person).mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(str(tmp_path / "faces" / person / f"{i}.jpg"), rng.integers(0, 256, (112, 112, 3), np.uint8))
    torch.manual_seed(0)
    net = create_backbone("iresnet18", embedding_size=4)
    torch.save({f"features.{k}": v for k, v in net.state_dict().items()}, tmp_path / "model.pth")
    command = [
        "magface-range",
        "--checkpoint",
        str(tmp_path / "model.pth"),
        "--data",
        str(tmp_path / "faces"),
        "--samples",
        "0",
    ]
    assert cli.main([*command, "--json", "-", "--scale", "32", "--batch-size", "4"]) == 0
    result = json.loads(capsys.readouterr().out)
    images = [cv2.imread(str(p)) for p in sorted((tmp_path / "faces").glob("*/*.jpg"))]  # BGR, as the official loader
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = net.eval()(x).norm(dim=1)
    assert result["magnitudes"]["count"] == 6
    assert result["magnitudes"]["min"] == pytest.approx(
        float(expected.min()), rel=0.02
    )  # decoders differ by a grey level
    assert result["proposal"]["scale"] == 32
    assert "--method.l_a" in result["options"]
    assert cli.main([*command, "--form", "cos"]) == 0
    assert "lambda_g" in capsys.readouterr().out
