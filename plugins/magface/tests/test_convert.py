"""Official MagFace files: recognised, loaded strictly, written back bit for bit, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from facex_magface import MagFace

from facex import cli
from facex.errors import CheckpointError
from facex.methods import Source
from facex.methods.loading import method_from_file, read_state, recognise_file
from facex.models import create_backbone
from facex.train.load_run import load_run

CLASSES, SIZE = 5, 8


def official(layout: str, depth: int = 18) -> dict[str, torch.Tensor]:
    """What the official trainers save, written down independently of the converter."""
    torch.manual_seed(1)
    state = create_backbone(f"iresnet{depth}", embedding_size=SIZE).state_dict()
    state = {k: 0.1 * torch.rand_like(v) + 0.01 if v.is_floating_point() else v + 3 for k, v in state.items()}
    centres = torch.randn(CLASSES, SIZE)
    if layout == "dp":
        return {**{f"module.features.{k}": v for k, v in state.items()}, "module.fc.weight": centres.T.contiguous()}
    if layout == "split":
        return {**{f"features.module.{k}": v for k, v in state.items()}, "parallel_fc.weight": centres}
    return {f"features.{k}": v for k, v in state.items()}


@pytest.mark.parametrize(
    ("layout", "name"),
    [("dp", "magface-dataparallel"), ("split", "magface-split-fc"), ("inference", "magface-inference")],
)
def test_there_and_back(layout: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = official(layout)
    file = tmp_path / "00025.pth"
    torch.save(
        {"epoch": 25, "arch": "iresnet18", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, file
    )
    assert cli.main(["convert", str(file), str(tmp_path / "run")]) == 0
    assert name in capsys.readouterr().out
    run = load_run(tmp_path / "run")
    assert type(run.method).__name__ == "MagFace"
    assert run.method.input.color == "bgr"
    assert not run.method.training
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "back.pth"), "--to", name]) == 0
    back = read_state(tmp_path / "back.pth")
    assert list(back) == list(state)
    assert all(torch.equal(back[k], state[k]) for k in state)
    assert (
        cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "back.safetensors"), "--to", "magface-inference"])
        == 0
    )
    assert set(read_state(tmp_path / "back.safetensors")) == set(official("inference"))


def test_both_layouts_give_the_same_centres(tmp_path: Path) -> None:
    from facex.commands.convert import read_centres

    centres = []
    for layout in ("dp", "split"):
        torch.save(official(layout), tmp_path / f"{layout}.pth")
        assert cli.main(["convert", str(tmp_path / f"{layout}.pth"), str(tmp_path / layout)]) == 0
        centres.append(read_centres(load_run(tmp_path / layout).path / "head"))
    assert centres[0] is not None
    assert centres[0].shape == (CLASSES, SIZE)
    assert torch.equal(centres[0], centres[1])


def test_the_architecture_comes_from_the_file() -> None:
    path, arguments = recognise_file(official("split", 34), "x.pth")
    assert path.endswith(".MagFace")
    assert arguments == {"backbone": "iresnet34", "embedding_size": SIZE}


def test_another_architecture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(official("dp"), tmp_path / "a.pth")
    command = [
        "convert",
        str(tmp_path / "a.pth"),
        str(tmp_path / "run"),
        "--method",
        "MagFace",
        "--backbone",
        "iresnet34",
    ]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "missing in the file: layer1.2.bn1.weight" in error
    assert not (tmp_path / "run").exists()
    method = MagFace(backbone="iresnet18", embedding_size=16)
    with pytest.raises(CheckpointError, match=r"fc\.weight: the file has \(8, 25088\), the network \(16, 25088\)"):
        method.init_from([Source(tmp_path / "a.pth")])


def test_missing_and_left_over_keys_are_named(tmp_path: Path) -> None:
    state = official("dp")
    del state["module.features.bn2.bias"]
    state["module.features.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pth")
    method = MagFace(backbone="iresnet18", embedding_size=SIZE)
    with pytest.raises(CheckpointError) as caught:
        method.init_from([Source(tmp_path / "a.pth")])
    assert "missing in the file: bn2.bias" in str(caught.value)
    assert "left over in the file: extra" in str(caught.value)
    report = method.init_from([Source(tmp_path / "a.pth", strict=False)])[0]
    assert report.missing == ["backbone.bn2.bias"]
    assert report.unexpected == ["backbone.extra"]
    state["somewhere.else"] = torch.zeros(1)
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"do not belong to this layout: somewhere\.else"):
        method.init_from([Source(tmp_path / "b.pth")])


def test_method_from_file_embeds_like_the_backbone(tmp_path: Path) -> None:
    state = official("inference")
    torch.save(state, tmp_path / "a.pth")
    method = method_from_file(tmp_path / "a.pth")
    backbone = create_backbone("iresnet18", embedding_size=SIZE)
    backbone.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    images = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        expected = backbone.eval()(images)
        assert torch.equal(method.embed(images, method.networks()).vector, expected)
    assert expected.isfinite().all()
