"""Official files: recognised, loaded strictly, written back bit for bit; folders with config.yaml; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from facex_msml import folder as folder_module
from facex_msml import formats
from facex_msml.fm import FMConfig
from facex_msml.folder import read_arguments
from facex_msml.network import MSMLNet, build_teacher
from facex_msml.peer import PeerConfig
from torch import Tensor

from facex import cli
from facex.commands.convert import read_bias, read_centres
from facex.errors import CheckpointError
from facex.methods.loading import build_method, load_network, method_from_file, read_state, recognise_file
from facex.models import create_backbone
from facex.train.load_run import load_run

CLASSES = 5
WIDTHS = {"width": 0.125, "osb_width": 0.125, "input_size": 32}
SMALL: dict[str, Any] = {"backbone_options": {"width": 0.125, "osb_width": 0.125}, "input": {"height": 32, "width": 32}}


def official(frb: str = "iresnet18", peer: bool = False, **options: Any) -> dict[str, Tensor]:
    """What the published code saves, with names put together independently of the converter."""
    torch.manual_seed(1)
    size = 256 if frb == "lightcnn" else 512
    if peer:
        options["peer"] = PeerConfig(use_decoder=frb != "lightcnn")
    net = MSMLNet(frb, **{**WIDTHS, **options})  # type: ignore[arg-type]
    state = {k: v for k, v in net.state_dict().items() if k.startswith("frb.")}
    if peer:
        teacher = build_teacher(frb, input_size=32, width=0.125)  # type: ignore[arg-type]
        state |= {f"frb.peer.{k}": v for k, v in teacher.state_dict().items()}
    state |= {k: v for k, v in net.state_dict().items() if k.startswith("osb.")}
    state["classification.weight"] = torch.randn(CLASSES, size)
    if frb == "lightcnn":
        state["classification.bias"] = torch.randn(CLASSES)
    return {k: 0.1 * torch.rand_like(v) + 0.01 if v.is_floating_point() else v + 3 for k, v in state.items()}


def convert(*arguments: object) -> int:
    return cli.main(["convert", *map(str, arguments)])


@pytest.mark.parametrize("frb", ["iresnet18", "lightcnn"])
def test_there_and_back(frb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = official(frb)
    torch.save(state, tmp_path / "backbone.pth")
    found = recognise_file(state, "backbone.pth")[1]
    assert found["backbone"] == frb
    options = {**found, **SMALL}
    assert (
        convert(tmp_path / "backbone.pth", tmp_path / "run", "--method", "MSML", "--options", json.dumps(options)) == 0
    )
    said = capsys.readouterr().out
    assert "msml (backbone.pth" in said and "activation, arithmetic and skip" in said and "skip false" in said
    run = load_run(tmp_path / "run")
    assert type(run.method).__name__ == "MSML"
    centres = read_centres(run.path / "head")
    assert centres is not None and torch.equal(centres, state["classification.weight"])
    assert (read_bias(run.path / "head") is not None) == (frb == "lightcnn")
    for layout in ("msml", "msml-features"):
        assert convert(tmp_path / "run", tmp_path / f"{layout}.pth", "--to", layout) == 0
        back = read_state(tmp_path / f"{layout}.pth")
        expected = {k: v for k, v in state.items() if layout == "msml" or not k.startswith("classification.")}
        assert list(back) == list(expected)
        assert all(torch.equal(back[k], expected[k]) for k in back)


def test_a_plain_backbone_comes_out(tmp_path: Path) -> None:
    state = official()
    net = MSMLNet(**WIDTHS)
    layouts = {f.name: f for f in formats.msml_formats(net)}
    content = layouts["msml"].read(state)
    assert torch.equal(content["head"], state["classification.weight"])
    load_network(net, content["networks"]["msml"], "file", "msml")
    plain = layouts["msml-plain"].write({"networks": {"msml": net.state_dict()}})
    ours = create_backbone("iresnet18_v", width=0.125, input_size=32)
    load_network(ours, plain, "file", "plain")
    teacher = build_teacher(width=0.125, input_size=32)
    load_network(teacher, layouts["msml-plain"].read(plain)["networks"]["frb"], "file", "teacher")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), teacher.eval()(x).embedding)


def test_lightcnns_own_checkpoint_loses_its_classifier() -> None:
    net = MSMLNet("lightcnn", **WIDTHS)
    (layout,) = [f for f in formats.msml_formats(net) if f.name == "msml-plain"]
    light = create_backbone("lightcnn29v2", width=0.125, input_size=32)
    file = {f"module.{k}": v for k, v in light.state_dict().items()}
    file |= {"module.fc2.weight": torch.zeros(7, 256), "module.fc2.bias": torch.zeros(7)}
    assert layout.recognise(file)
    load_network(light, layout.read(file)["networks"]["frb"], "file", "frb")


def test_the_peer_is_ignored_where_it_is_not_wanted_and_kept_where_it_is() -> None:
    state = official(peer=True)
    arguments = formats.recognise_official(state)
    assert arguments is not None
    assert arguments["peer"] == {"use_conv": True, "mask_trans": "conv", "use_decoder": True}
    net = MSMLNet(peer=PeerConfig(use_decoder=True), **WIDTHS)
    layouts = {f.name: f for f in formats.msml_formats(net)}
    content = layouts["msml"].read(state)
    load_network(net, content["networks"]["msml"], "file", "msml")
    assert list(layouts["msml"].write(content)) == list(state)
    layout = formats.msml_formats(net, True)[0]
    kept = layout.read(state)
    assert set(kept["networks"]) == {"msml", "peer"} and kept["meta"] == {}
    written = layout.write(kept)
    assert list(written) == list(state) and all(torch.equal(written[k], v) for k, v in state.items())
    with pytest.raises(CheckpointError, match="this run was given none"):
        formats.msml_formats(net, False)[0].write(kept)


@pytest.mark.parametrize("frb", ["iresnet18", "lightcnn"])
def test_the_peer_comes_back_with_its_weights(frb: str, tmp_path: Path) -> None:
    state = official(frb, peer=True)
    torch.save(state, tmp_path / "backbone.pth")
    found = recognise_file(state, "backbone.pth")[1]
    options = json.dumps({**found, **SMALL})
    assert convert(tmp_path / "backbone.pth", tmp_path / "run", "--method", "MSML", "--options", options) == 0
    assert convert(tmp_path / "run", tmp_path / "back.pth", "--to", "msml") == 0
    back = read_state(tmp_path / "back.pth")
    assert list(back) == list(state)
    assert all(torch.equal(back[k], v) for k, v in state.items())


def test_a_run_without_the_peers_weights_writes_no_random_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = official(peer=True)
    arguments = {**(formats.recognise_official(state) or {}), **SMALL}
    torch.save({k: v for k, v in state.items() if not k.startswith("frb.peer.")}, tmp_path / "backbone.pth")
    options = json.dumps(arguments)
    assert convert(tmp_path / "backbone.pth", tmp_path / "run", "--method", "MSML", "--options", options) == 0
    for layout in ("msml", "msml-features"):
        assert convert(tmp_path / "run", tmp_path / "back.pth", "--to", layout) != 0
        assert "network: peer" in capsys.readouterr().err
        assert not (tmp_path / "back.pth").exists()
    assert convert(tmp_path / "run", tmp_path / "plain.pth", "--to", "msml-plain") == 0


def test_what_the_names_tell() -> None:
    fm = FMConfig(1, 1)
    found = formats.recognise_official(official("iresnet34", fm=fm, fm_layers=(0, 1, 1, 0)))
    assert found is not None
    assert (found["backbone"], found["fm_layers"], found["fm"]) == (
        *("iresnet34", [0, 1, 1, 0]),
        {"kernel_size": 1, "resblocks": 1},
    )
    assert found["margin"]["class_path"].endswith("AMArcFace")
    assert formats.recognise_official(create_backbone("r18", width=0.125).state_dict()) is None
    light = formats.recognise_official(official("lightcnn"))
    assert light is not None and light["margin"]["class_path"].endswith("Softmax")


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = official()
    net = MSMLNet(**WIDTHS)
    content = formats.split_official(state)
    del content["networks"]["msml"]["osb.bn2.weight"]
    with pytest.raises(CheckpointError, match=r"missing in the file: osb\.bn2\.weight"):
        load_network(net, content["networks"]["msml"], "file", "msml")
    with pytest.raises(CheckpointError, match=r"do not belong to this layout: optimizer\.x"):
        formats.split_official({**state, "optimizer.x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="use msml-features"):
        formats.join_official({"networks": {"msml": {}}, "head": None})
    with pytest.raises(CheckpointError, match="this run trained osb alone"):
        formats.join_official({"networks": {"osb": {}}, "head": None})
    torch.save({k: v for k, v in state.items() if k != "frb.conv1.weight"}, tmp_path / "cut.pth")
    arguments = {"margin": "AMArcFace", "backbone": "iresnet18", **SMALL}
    with pytest.raises(CheckpointError, match=r"missing in the file: frb\.conv1\.weight"):
        method_from_file(tmp_path / "cut.pth", "MSML", arguments)


CONFIG: dict[str, Any] = {
    "dataset": "webface",
    "fp16": True,
    "batch_size": 80,
    "frb_type": "iresnet18",
    "osb_type": "unet",
    "use_osb": True,
    "fm_layers": [1, 1, 1, 1],
    "fm_params": [3, 2, "tanh", "sub"],
    "header_type": "AMCosFace",
    "header_params": [64.0, 0.4, 1.2, 0.1],
    "exp_id": 3,
    "output_prefix": "ires18_msml",
}


def folder(path: Path, **changes: Any) -> Path:
    """An output folder of the published code."""
    path.mkdir()
    torch.save(official("lightcnn" if changes.get("frb_type") == "lightcnn" else "iresnet18"), path / "backbone.pth")
    (path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}), encoding="utf-8")
    (path / "training.log").write_text("Training: step 1\n", encoding="utf-8")
    return path


def test_an_output_folder_tells_arithmetic_and_margin(tmp_path: Path) -> None:
    arguments = read_arguments(folder(tmp_path / "out"))
    assert arguments["fm"] == {"kernel_size": 3, "resblocks": 2, "activation": "tanh", "arith": "sub", "skip": True}
    assert arguments["margin"]["init_args"] == {"s": 64.0, "m": 0.4, "a": 1.2, "k": 0.1}
    assert read_arguments(tmp_path / "out", skip=False)["fm"]["skip"] is False
    assert "peer" not in arguments
    method = build_method("MSML", arguments)
    assert method.head is not None and type(method.head.margin).__name__ == "AMCosFace"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frb_type": "iresnet50"}, "backbone is iresnet50 in the one, iresnet18 in the other"),
        ({"fm_params": [1, 2, "tanh", "add"]}, "kernel_size is 1 in the one, 3 in the other"),
        ({"fm_layers": [1, 1, 1, 0]}, "fm_layers"),
        ({"header_type": "Softmax"}, "header Softmax is True in the one, False in the other"),
        ({"peer_params": {"use_ori": True, "use_conv": True}}, "use_conv is True in the one, None in the other"),
    ],
)
def test_a_config_of_another_network_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "out")
    (path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=words):
        read_arguments(path)


def test_an_output_folder_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = formats.recognise_official
    monkeypatch.setattr(folder_module, "recognise_official", lambda state: {**(known(state) or {}), **SMALL})
    first, run, second = folder(tmp_path / "first"), tmp_path / "run", tmp_path / "second"
    assert cli.main(["msml-folder", str(first), str(run)]) == 0
    assert load_run(run).method.net.fm == FMConfig(3, 2, "tanh", "sub")
    assert (run / "training.log").read_text(encoding="utf-8") == "Training: step 1\n"
    assert cli.main(["msml-folder", str(run), str(second)]) != 0
    assert "choose one with --dataset" in capsys.readouterr().err
    assert not second.exists()
    options = ["--dataset", "webface", "--batch-size", "80", "--prefix", "ires18_msml", "--number", "3"]
    assert cli.main(["msml-folder", str(run), str(second), *options]) != 0
    assert "webface has 10572 identities, this run 5" in capsys.readouterr().err
    assert not second.exists()
    options += ["--num-classes", "5"]
    assert cli.main(["msml-folder", str(run), str(second), *options]) == 0
    written, read = read_state(second / "backbone.pth"), read_state(first / "backbone.pth")
    assert list(written) == list(read)
    assert all(torch.equal(written[k], read[k]) for k in read)
    config = yaml.safe_load((second / "config.yaml").read_text(encoding="utf-8"))
    assert config == CONFIG
    assert (second / "training.log").read_text(encoding="utf-8") == "Training: step 1\n"
    (run / "msml_config.yaml").unlink()
    (run / "training.log").unlink()
    (run / "config.yaml").write_text("trainer: {precision: fp32}\n", encoding="utf-8")
    entry = {"step": 20, "msml/loss": 11.5, "msml/head": 11.0, "epoch": 0.5, "msml/lr": 0.004}
    (run / "metrics.jsonl").write_text(json.dumps(entry) + '\n{"step": 30, "lfw": 0.9}\n{"st', encoding="utf-8")
    third = tmp_path / "third"
    assert cli.main(["msml-folder", str(run), str(third), *options]) == 0
    assert (third / "training.log").read_text(encoding="utf-8") == "step 20: msml/loss 11.5, msml/lr 0.004\n"
    assert yaml.safe_load((third / "config.yaml").read_text(encoding="utf-8")) == {**CONFIG, "fp16": False}


def test_an_incomplete_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(tmp_path / "out")
    (path / "config.yaml").unlink()
    assert cli.main(["msml-folder", str(path), str(tmp_path / "run")]) != 0
    assert "no config.yaml" in capsys.readouterr().err
    assert cli.main(["msml-folder", str(tmp_path / "nothing"), str(tmp_path / "run")]) != 0
    assert "no such folder" in capsys.readouterr().err
