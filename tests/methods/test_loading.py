"""Reading official files: safely, strictly, with reports; the core's own recogniser and insightface's layout."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from facex.classification import Recogniser
from facex.errors import CheckpointError, ConfigError
from facex.heads.margins import ArcFace
from facex.methods import Frozen, Source
from facex.methods.formats import bare_format
from facex.methods.loading import build_method, load_sources, method_from_file, read_state, recognise_file

SMALL: dict[str, Any] = {"backbone": "r18", "embedding_size": 8, "backbone_options": {"width": 0.125}}


def recogniser(seed: int = 0) -> Recogniser:
    torch.manual_seed(seed)
    return Recogniser(ArcFace(), **SMALL)


@pytest.mark.parametrize("kind", ["model.pt", "ddp.pt", "container.pth", "m.safetensors"])
def test_insightface_files(kind: str, tmp_path: Path) -> None:
    state = recogniser(1).backbone.state_dict()
    file = tmp_path / kind
    if kind == "m.safetensors":
        save_file(state, file)
    elif kind == "ddp.pt":
        torch.save({f"module.{k}": v for k, v in state.items()}, file)
    else:
        torch.save({"state_dict_backbone": state, "epoch": 3} if kind.startswith("c") else state, file)
    method = recogniser(2)
    (report,) = load_sources(method, [Source(file)])
    assert len(report.loaded) == len(state)
    assert not report.missing
    assert not report.unexpected
    assert all(torch.equal(v, state[k]) for k, v in method.backbone.state_dict().items())
    assert "187 tensors loaded" in str(report)


def test_recognised_without_a_config() -> None:
    with torch.device("meta"):
        state = build_method(
            "Recogniser", {"margin": {"class_path": "CosFace"}, "backbone": "r34"}
        ).backbone.state_dict()
    path, arguments = recognise_file(state, "x.pt", "Recogniser")
    assert path == "facex.classification.Recogniser"
    assert (arguments["backbone"], arguments["embedding_size"]) == ("r34", 512)


def test_method_from_file(tmp_path: Path) -> None:
    state = recogniser(1).backbone.state_dict()
    torch.save(state, tmp_path / "m.pt")
    margin = {"class_path": "facex.heads.margins.ArcFace"}
    method = method_from_file(tmp_path / "m.pt", "Recogniser", {**SMALL, "margin": margin})
    assert torch.equal(method.networks()["backbone"].state_dict()["conv1.weight"], state["conv1.weight"])
    assert not method.training


def test_a_hostile_file_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Hostile()))
    torch.save({"state_dict": Hostile()}, tmp_path / "bad2.pth")
    for name in ("bad.pth", "bad2.pth"):
        with pytest.raises(CheckpointError, match=rf"{name}: not a checkpoint that can be read safely"):
            read_state(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds a list"), ({"epoch": 3}, r"holds no tensors \(keys: epoch\)"), (None, "holds a NoneType")],
)
def test_files_that_are_no_checkpoint(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        read_state(tmp_path / "x.pt")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_state(tmp_path / "none.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match="damaged safetensors"):
        read_state(tmp_path / "cut.safetensors")
    torch.save({"a": torch.zeros(3000)}, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        read_state(tmp_path / "cut.pt")


def test_a_foreign_file_says_what_is_in_it(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"not a layout that Recogniser reads .*insightface.*encoder\.weight"):
        load_sources(recogniser(), [Source(tmp_path / "x.pt")])
    with pytest.raises(CheckpointError, match=r"no format 'insightfase'.*'insightface'"):
        load_sources(recogniser(), [Source(tmp_path / "x.pt", format="insightfase")])
    with pytest.raises(CheckpointError, match=r"no method .* recognises this file"):
        recognise_file({"encoder.weight": torch.zeros(2)}, "x.pt")


class TwoNetworks(Recogniser):
    """A recogniser with a frozen teacher of the same shape."""

    def __init__(self) -> None:
        super().__init__(ArcFace(), **SMALL)
        self.teacher = recogniser(5).backbone

    def frozen(self) -> dict[str, Frozen]:
        return {"teacher": Frozen(self.teacher)}

    def formats(self) -> list[Any]:
        return [bare_format("insightface", "backbone", list(self.backbone.state_dict()))]


def test_one_networks_file_may_fill_another_network(tmp_path: Path) -> None:
    state = recogniser(1).backbone.state_dict()
    torch.save(state, tmp_path / "m.pt")
    method = TwoNetworks()
    before = method.backbone.conv1.weight.clone()
    (report,) = load_sources(method, [Source(tmp_path / "m.pt", network="teacher")])
    assert report.loaded[0].startswith("teacher.")
    assert torch.equal(method.teacher.conv1.weight, state["conv1.weight"])
    assert torch.equal(method.backbone.conv1.weight, before)
    with pytest.raises(CheckpointError, match=r"no network 'techer'.*'teacher'"):
        load_sources(method, [Source(tmp_path / "m.pt", network="techer")])


def test_from_a_facex_run(tmp_path: Path) -> None:
    from facex.commands.convert import write_run

    method = recogniser(1)
    write_run(tmp_path / "run", method, "Recogniser", {}, None, "test")
    other = recogniser(2)
    (report,) = load_sources(other, [Source(tmp_path / "run")])
    assert len(report.loaded) == 187
    assert torch.equal(other.backbone.conv1.weight, method.backbone.conv1.weight)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="neither a facex run nor a checkpoint"):
        load_sources(other, [Source(tmp_path / "empty")])


def test_bad_constructor_arguments_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="embeding_size"):
        build_method("Recogniser", {"margin": {"class_path": "CosFace"}, "embeding_size": 3})
    with pytest.raises(ConfigError, match="no backbone 'r19'"):
        build_method("Recogniser", {"margin": {"class_path": "CosFace"}, "backbone": "r19"})


def test_a_scalar_entry_does_not_hide_a_shape() -> None:
    module = nn.BatchNorm1d(3)
    from facex.methods.loading import load_network

    state = {**module.state_dict(), "weight": torch.zeros(4)}
    with pytest.raises(CheckpointError, match=r"weight: the file has \(4,\), the network \(3,\)"):
        load_network(module, state, "x", "n")
    report = load_network(module, state, "x", "n", strict=False)
    assert report.missing == ["weight"]
