"""Every released kind of file: recognised, loaded strictly, written back; what is given for what it is not is named."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from facex_lafs.checkpoints import read_file
from facex_lafs.finetune import LAFS
from facex_lafs.pretrain import HeadOptions, LAFSPretrain
from facex_lafs.view_maker import LandmarkOptions
from torch import Tensor

from facex import cli
from facex.errors import CheckpointError, ConfigError
from facex.methods import InputSpec, Source
from facex.methods.loading import method_from_file, read_state, recognise_file
from facex.train.load_run import load_run

# widths as published, but for the depth and the size of a token; heads of 64 numbers
SMALL: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 1, "mlp_dim": 16}
CLASSES, OUT = 5, 12
HEAD = {"out_dim": OUT, "hidden_dim": 16, "bottleneck_dim": 8}


@pytest.fixture(scope="module")
def part() -> dict[str, Tensor]:
    """A supervised Part fViT with class centres, as the official trainer's state dict has it."""
    torch.manual_seed(0)
    state = LAFS(backbone_options=SMALL).backbone.state_dict()
    return {**state, "loss.weight": torch.randn(CLASSES, SMALL["dim"])}


@pytest.fixture(scope="module")
def ssl() -> dict[str, Any]:
    """An official file of pre-training: student from inside DDP, teacher, centre, options of the trainer."""
    torch.manual_seed(1)
    made = LAFSPretrain(backbone_options=SMALL, head=HeadOptions(**HEAD))
    student, teacher = made.student.state_dict(), made.teacher.state_dict()
    centre = torch.randn(1, OUT)
    del teacher["center"]
    teacher = {k: v + 0.5 for k, v in teacher.items()}
    return {
        "student": {f"module.{k}": v for k, v in student.items()},
        "teacher": teacher,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "epoch": 41,
        "args": argparse.Namespace(out_dim=OUT, lr=5e-4, data_path="x", use_fp16=True),
        "dino_loss": {"center": centre},
        "fp16_scaler": {"scale": 65536.0},
    }


def saved(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def networks_equal(state: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert list(state) == list(want)
    assert all(torch.equal(state[k], want[k]) for k in want)


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "encoder."])
def test_a_supervised_file_under_any_prefix(prefix: str, part: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved({prefix + k: v for k, v in part.items()}, tmp_path / "a.pth")
    method = LAFS(backbone_options=SMALL)
    report = method.init_from([Source(file)])[0]
    assert len(report.loaded) == len(part) - 1
    assert not report.missing
    networks_equal(method.backbone.state_dict(), {k: v for k, v in part.items() if k != "loss.weight"})
    found = read_file(file)
    assert (found.kind, found.head is not None) == ("part_fvit", True)


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_a_container_is_opened(container: str, part: dict[str, Tensor], tmp_path: Path) -> None:
    method = LAFS(backbone_options=SMALL)
    method.init_from([Source(saved({container: part, "epoch": 3}, tmp_path / "a.pth"))])
    assert torch.equal(method.backbone.cls_token, part["cls_token"])


@pytest.mark.parametrize(("prefix", "layout"), [("", "lafs"), ("module.", "lafs-module")])
def test_converted_there_and_back(
    prefix: str, layout: str, part: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved({prefix + k: v for k, v in part.items()}, tmp_path / "a.pth")
    assert cli.main(["convert", str(file), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"{layout} (" in said
    assert f"class centres {CLASSES} x {SMALL['dim']}" in said
    run = load_run(tmp_path / "run")
    assert type(run.method).__name__ == "LAFS"
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "b.pth"), "--to", layout]) == 0
    networks_equal(read_state(tmp_path / "b.pth"), {prefix + k: v for k, v in part.items()})


def test_the_architecture_comes_from_the_file(part: dict[str, Tensor], ssl: dict[str, Any], tmp_path: Path) -> None:
    path, arguments = recognise_file(part, "x")
    assert path.endswith(".LAFS")
    assert arguments == {"backbone": "part_fvit_b", "backbone_options": {**SMALL, "num_patches": 196, "patch_size": 8}}
    plain = {k: v for k, v in part.items() if not k.startswith(("stn.", "output_layer.", "loss."))}
    assert recognise_file(plain, "x")[1]["backbone"] == "fvit_b"
    path, arguments = recognise_file(read_state(saved(ssl, tmp_path / "ssl.pth")), "x")
    assert path.endswith(".LAFSPretrain")
    assert arguments["head"] == {**HEAD, "use_bn": False}


def test_a_converted_model_embeds(part: dict[str, Tensor], tmp_path: Path) -> None:
    method = method_from_file(saved(part, tmp_path / "a.pth"))
    x = torch.rand(1, 3, 112, 112)
    with torch.no_grad():
        assert method.embed(x, method.networks()).vector.shape == (1, SMALL["dim"])


def test_pretraining_files_there_and_back(ssl: dict[str, Any], tmp_path: Path) -> None:
    file = saved(ssl, tmp_path / "ssl.pth")
    assert cli.main(["convert", str(file), str(tmp_path / "run")]) == 0
    method = load_run(tmp_path / "run").method
    assert torch.equal(method.teacher.center, ssl["dino_loss"]["center"])
    assert torch.equal(method.teacher.backbone.cls_token, ssl["teacher"]["backbone.cls_token"])
    assert torch.equal(method.student.backbone.cls_token, ssl["student"]["module.backbone.cls_token"])
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "back.pth"), "--to", "lafs-ssl"]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    for part_name in ("student", "teacher", "dino_loss"):
        networks_equal(back[part_name], ssl[part_name])


def test_the_unused_head_of_some_files_is_left_out(ssl: dict[str, Any], tmp_path: Path) -> None:
    odd = {**ssl, "teacher": {**ssl["teacher"], "backbone.loss.weight": torch.randn(30000, SMALL["dim"])}}
    found = read_file(saved(odd, tmp_path / "ssl.pth"))
    assert (found.kind, found.head) == ("ssl", None)
    assert "loss.weight" not in found.transformer


def test_stage_three_takes_teacher_and_landmarks(part: dict[str, Tensor], ssl: dict[str, Any], tmp_path: Path) -> None:
    files = saved(ssl, tmp_path / "ssl.pth"), saved(part, tmp_path / "part.pth")
    method = LAFS(backbone_options=SMALL)
    method.init_from([Source(files[0], "transformer"), Source(files[1], "landmarks")])
    state = method.backbone.state_dict()
    assert torch.equal(state["pos_embedding"], ssl["teacher"]["backbone.pos_embedding"])
    assert torch.equal(state["stn.features.0.0.weight"], part["stn.features.0.0.weight"])
    method.init_from([Source(files[0], "transformer", "lafs-ssl-student")])
    assert torch.equal(method.backbone.cls_token, ssl["student"]["module.backbone.cls_token"])


def test_pretraining_takes_the_landmarks_of_stage_one(
    part: dict[str, Tensor], ssl: dict[str, Any], tmp_path: Path
) -> None:
    method = LAFSPretrain(backbone_options=SMALL, head=HeadOptions(**HEAD))
    report = method.init_from([Source(saved(part, tmp_path / "part.pth"))])[0]
    assert len(report.loaded) == 294
    assert method.landmark_network is not None
    assert torch.equal(method.landmark_network.output_layer[1].weight, part["output_layer.1.weight"])
    assert bool(method.landmarks_loaded)
    method.init_from([Source(saved(ssl, tmp_path / "ssl.pth"), "student")])
    for net in (method.student, method.teacher):
        assert torch.equal(net.backbone.cls_token, ssl["teacher"]["backbone.cls_token"])


@pytest.mark.parametrize(
    ("kind", "target", "network", "message"),
    [
        ("part", "fine", "transformer", "supervised Part fViT .*where a self-supervised file is expected"),
        ("part", "pre", "student", "supervised Part fViT .*where a self-supervised file is expected"),
        ("ssl", "fine", "landmarks", r"self-supervised file .*where a landmark network is expected.*stage-1"),
        ("ssl", "pre", "landmarks", r"self-supervised file .*where a landmark network is expected.*stage-1"),
        ("ssl", "fine", None, "holds no landmark network.*network: transformer"),
        ("nothing", "fine", None, "matches nothing of an fViT"),
        ("nothing", "pre", "landmarks", "matches nothing of an fViT"),
        ("part", "fine", "stem", "'stem' is none of backbone, transformer and landmarks"),
        ("part", "pre", "teacher", "'teacher' is none of landmarks and student"),
        ("other", "fine", None, r"patch_to_embedding.weight: the file has \(16, 192\), the network \(24, 192\)"),
        ("cut", "fine", None, "missing in the file: mlp_head.0.bias"),
        ("more", "fine", None, "left over in the file: extra.weight"),
    ],
)
def test_a_file_given_for_what_it_is_not(
    kind: str,
    target: str,
    network: str | None,
    message: str,
    part: dict[str, Tensor],
    ssl: dict[str, Any],
    tmp_path: Path,
) -> None:
    other = {k: v for k, v in LAFS(backbone_options={**SMALL, "dim": 16}).backbone.state_dict().items()}
    states: dict[str, Any] = {
        "part": part,
        "ssl": ssl,
        "nothing": {"conv1.weight": torch.zeros(2), "layer1.0.bn1.bias": torch.zeros(2)},
        "other": other,
        "cut": {k: v for k, v in part.items() if k != "mlp_head.0.bias"},
        "more": {**part, "extra.weight": torch.zeros(1)},
    }
    file = saved(states[kind], tmp_path / "x.pth")
    method: Any = LAFS(backbone_options=SMALL)
    if target == "pre":
        method = LAFSPretrain(backbone_options=SMALL, head=HeadOptions(**HEAD))
    with pytest.raises(CheckpointError, match=message):
        method.init_from([Source(file, network)])


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_options_that_would_run_code_are_refused(ssl: dict[str, Any], tmp_path: Path) -> None:
    file = saved({**ssl, "args": argparse.Namespace(evil=Evil(tmp_path / "pwned"))}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="can be read safely"):
        read_file(file)
    assert not (tmp_path / "pwned").exists()


def test_class_centres_are_taken_where_they_are_asked_for(part: dict[str, Tensor]) -> None:
    formats = LAFS(backbone_options=SMALL).formats()
    assert torch.equal(formats[0].read(dict(part))["head"], part["loss.weight"])


def test_landmark_counts_that_differ_are_named(part: dict[str, Tensor], tmp_path: Path) -> None:
    method = LAFSPretrain(
        backbone_options={**SMALL, "num_patches": 16},
        landmarks=LandmarkOptions(count=16, sampled=4),
        head=HeadOptions(**HEAD),
        input=InputSpec(32, 32),
    )
    with pytest.raises(
        CheckpointError, match=r"output_layer.1.weight: the file has \(392, 160\), the network \(32, 160\)"
    ):
        method.init_from([Source(saved(part, tmp_path / "part.pth"))])


def test_a_converted_pretraining_says_what_it_lacks(ssl: dict[str, Any], tmp_path: Path) -> None:
    assert cli.main(["convert", str(saved(ssl, tmp_path / "ssl.pth")), str(tmp_path / "run")]) == 0
    method = load_run(tmp_path / "run").method
    with pytest.raises(ConfigError, match="landmark network has no trained weights"):
        method.embed(torch.rand(1, 3, 112, 112), method.networks())
    options = ["--options", '{"recipe": "dino"}']
    assert cli.main(["convert", str(tmp_path / "ssl.pth"), str(tmp_path / "dino"), *options]) == 0
    dino = load_run(tmp_path / "dino").method
    nets = {"teacher": dino.teacher, **dino.networks()}
    with torch.no_grad():
        assert dino.embed(torch.rand(1, 3, 112, 112), nets).vector.shape == (1, SMALL["dim"])
