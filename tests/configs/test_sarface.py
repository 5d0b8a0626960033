"""configs/sarface: every recipe against the spec's tables, and two real steps of the second stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.configs import recipes

STAGE1 = {"pretrain.yaml": (1e-4, "fp16"), "completed_pretrain.yaml": (0.1, "bf16")}
OFFICIAL = {"official_cosface.yaml": "CosFace", "official_adaface.yaml": "AdaFace"}
COMPLETED = "completed.yaml"
PARSER = {"widths": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
SMALL = ["--method.backbone_options", recipes.THIN, "--method.parser.options", str(PARSER)]


def resolved(name: str) -> dict[str, Any]:
    return recipes.resolved("sarface", name, *SMALL)


def check(config: dict[str, Any], section: str, wanted: dict[str, Any]) -> None:
    assert {key: config[section].get(key) for key in wanted} == wanted


def transforms(config: dict[str, Any]) -> list[str]:
    return [t["class_path"].rsplit(".", 1)[-1] for t in config["data"]["transforms"]]


def common(config: dict[str, Any], rate: float, precision: str) -> dict[str, Any]:
    """What all recipes share; the method's options."""
    method = config["method"]["init_args"]
    assert (method["backbone"], method["embedding_size"], method["init"]) == ("ir_50", 512, "unit")
    assert method["input"]["color"] == "bgr" and method["scheme"] == "sar24"
    check(config, "trainer", {"global_batch": 128, "micro_batch": 32, "epochs": 26, "precision": precision, "seed": 42})
    check(config, "optimizer", {"name": "sgd", "lr": rate, "momentum": 0.9, "weight_decay": 5e-4})
    check(config, "data", {"path": "data/faces_vgg_112x112", "num_classes": 9131})
    names = [Path(b).stem for b in config["evaluation"]["bins"]]
    assert sorted(names) == ["agedb_30", "calfw", "cfp_fp", "cplfw", "lfw"]
    assert config["evaluation"]["every"] == round(3_136_000 / 128 / 10)  # ten times an epoch
    sources = {source.get("network", ""): source["path"] for source in config["init_from"]}
    assert sources["parser"] == "weight/swiftl1_fp_128_only.pth"
    return dict(method)


def cosface(method: dict[str, Any]) -> None:
    margin = method["margin"]["init_args"]
    assert (margin["s"], margin["m"], margin["clamp_eps"]) == (64, 0.4, 1e-4)


def test_every_recipe_is_in_a_table() -> None:
    ours = {name for name in recipes.recipe_names("sarface") if name.startswith(("demo", "lfw", "parser"))}
    assert set(recipes.recipe_names("sarface")) - ours == {*STAGE1, *OFFICIAL, COMPLETED, "evaluate.yaml"}


@pytest.mark.parametrize("name", STAGE1)
def test_first_stage(name: str) -> None:
    config = resolved(name)
    method = common(config, *STAGE1[name])
    cosface(method)
    assert (method["drop_probability"], method["clean_probability"]) == (0.5, 0.5)
    assert (method["clean_per"], method["drop_only_removable"]) == (
        ("batch", False) if name == "pretrain.yaml" else ("image", True)
    )
    check(config, "schedule", {"kind": "step", "milestones": [12, 20, 24], "gamma": 0.1})
    assert transforms(config) == ["HorizontalFlip"]


@pytest.mark.parametrize("name", OFFICIAL)
def test_published_second_stage(name: str) -> None:
    config = resolved(name)
    method = common(config, 0.1, "fp16")
    assert method["margin"]["class_path"].endswith(OFFICIAL[name])
    if name == "official_cosface.yaml":
        cosface(method)
    else:
        margin = method["margin"]["init_args"]
        assert (margin["m"], margin["h"], margin["t_alpha"], margin["statistics"]) == (0.4, 0.333, 0.01, "rank")
    exploration = {"kind": "noise", "eps": 0.2, "eps_train": 0.05, "sigma": 1.0, "floor": 2.0**-10}
    assert exploration.items() <= method["exploration"].items()
    assert {"kind": "flip", "sparsity": "inverse_area", "weight": 0.05, "min_area": 0}.items() <= method[
        "reward"
    ].items()
    assert (method["baseline"]["kind"], method["entropy"]) == ("none", {"kind": "pseudo", "weight": 0.01})
    assert (method["rec_bn"], method["clean_probability"], method["eval_input"], method["samples"]) == (
        "frozen",
        0,
        "full",
        1,
    )
    assert config["schedule"]["kind"] == "constant"
    adam = {"name": "adam", "lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0}
    assert adam.items() <= config["networks"]["policy"]["optimizer"].items()
    assert {"every": 100, "accumulate": False}.items() <= config["networks"]["recogniser"].items()
    assert transforms(config) == ["CropOnBlack", "LowResolution", "Photometric", "HorizontalFlip"]
    assert [t["init_args"]["p"] for t in config["data"]["transforms"][:3]] == [0.2] * 3


def test_completed_second_stage() -> None:
    config = resolved(COMPLETED)
    method = common(config, 0.01, "bf16")
    cosface(method)
    exploration = {"kind": "mixture", "eps": 0.5, "eps_end": 0.05, "steps": 15000}
    assert exploration.items() <= method["exploration"].items()
    reward = {"kind": "margin", "tau": 0.1, "sparsity": "fraction", "weight": 0.05, "min_area": 0.05}
    assert reward.items() <= method["reward"].items()
    assert (method["baseline"]["kind"], method["baseline"]["normalize"]) == ("loo", False)
    assert method["entropy"] == {"kind": "true", "weight": 0.01}
    assert (method["rec_bn"], method["clean_probability"], method["eval_input"]) == ("train", 0.5, "both")
    check(config, "schedule", {"kind": "step", "milestones": [12, 20, 24], "gamma": 0.1})
    assert "recogniser" not in config["networks"] or config["networks"]["recogniser"]["every"] == 1


@pytest.mark.parametrize("name", ["official_cosface.yaml", COMPLETED])
def test_two_steps(name: str, tmp_path: Path) -> None:
    from facex_sarface.swiftformer import SwiftFormerParser

    (tmp_path / "imgs").mkdir()
    faces = recipes.make_faces(tmp_path / "imgs")
    torch.save(SwiftFormerParser(**PARSER).state_dict(), tmp_path / "parser.pth")
    start = f"[{{path: {tmp_path / 'parser.pth'}, network: parser}}]"
    more = ["--init_from", start, "--evaluation.selection", "null"]
    more += ["--networks", "{recogniser: {every: 1}}"] if name == "official_cosface.yaml" else []
    recipes.two_steps("sarface", name, faces, tmp_path / "run", *SMALL, *more)
