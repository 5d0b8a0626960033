"""configs/adaface: every recipe against the spec (I), weight-decay groups, and two real steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from facex.train.optim import check_groups, resolve_groups
from facex.train.parsing import parse
from tests.configs import recipes

# file: (network, classes). Written from the spec.
TABLE = {
    "ir18_casia": ("ir_18", 10572),
    "ir18_vgg2": ("ir_18", 9131),
    "ir18_webface4m": ("ir_18", 205990),
    "ir50_casia": ("ir_50", 10572),
    "ir50_ms1mv2": ("ir_50", 85742),
    "ir50_webface4m": ("ir_50", 205990),
    "ir101_ms1mv2": ("ir_101", 85742),
    "ir101_ms1mv3": ("ir_101", 93431),
    "ir101_webface4m": ("ir_101", 205990),
    "ir101_webface12m": ("ir_101", 617970),
}
AUGMENTATION = [("CropOnBlack", 0.2), ("LowResolution", 0.2), ("Photometric", 0.2), ("HorizontalFlip", 0.5)]
SWAPPED = ["--method.backbone", "resface_xs", "--method.backbone_options", "{}"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people, four pictures each, in a folder per person."""
    return recipes.make_faces(tmp_path_factory.mktemp("faces"))


def test_every_recipe_is_in_the_table() -> None:
    assert {n.removesuffix(".yaml") for n in recipes.recipe_names("adaface")} == {*TABLE, "lfw_small"}


@pytest.mark.parametrize("name", TABLE)
def test_recipe_equals_the_spec(name: str) -> None:
    backbone, classes = TABLE[name]
    assert recipes.written("adaface", f"{name}.yaml")["method"]["init_args"]["backbone"] == backbone
    config = recipes.resolved("adaface", f"{name}.yaml", *SWAPPED)
    init, margin = config["method"]["init_args"], config["method"]["init_args"]["margin"]
    assert margin["class_path"].rsplit(".", 1)[-1] == "AdaFace"
    assert tuple(margin["init_args"][k] for k in ("s", "m", "h", "t_alpha", "eps")) == (64, 0.4, 0.333, 0.01, 1e-3)
    assert (margin["init_args"]["form"], margin["init_args"]["interclass_filter"]) == ("head", 0)
    assert (init["embedding_size"], init["init"], init["sample_rate"], init["norm_decay"]) == (512, "unit", 1, False)
    assert (init["input"]["color"], init["input"]["mean"], init["input"]["std"]) == ("bgr", [127.5] * 3, [127.5] * 3)
    assert config["data"]["num_classes"] == classes
    transforms = [(t["class_path"].rsplit(".", 1)[-1], t["init_args"]["p"]) for t in config["data"]["transforms"]]
    assert transforms == AUGMENTATION
    assert config["data"]["transforms"][0]["init_args"]["scale"] == [0.2, 1.0]
    assert config["data"]["transforms"][0]["init_args"]["ratio"] == pytest.approx([0.75, 1.3333], abs=1e-4)
    assert config["data"]["transforms"][1]["init_args"]["ratio"] == [0.2, 1.0]
    assert config["data"]["transforms"][2]["init_args"]["strength"] == 0.5
    trainer = config["trainer"]
    assert (trainer["global_batch"], trainer["epochs"], trainer["precision"]) == (512, 26, "fp16")
    assert (trainer["clip"]["norm"], trainer["sync_bn"], trainer["seed"]) == (0, False, 42)
    optimizer, schedule = config["optimizer"], config["schedule"]
    assert (optimizer["name"], optimizer["lr"], optimizer["momentum"]) == ("sgd", 0.1, 0.9)
    assert (optimizer["weight_decay"], optimizer["no_decay"]) == (5e-4, "none")
    assert (schedule["kind"], schedule["milestones"], schedule["gamma"]) == ("step", [12, 20, 24], 0.1)
    assert schedule["warmup_epochs"] == 0
    sets = [Path(b).name for b in config["evaluation"]["bins"]]
    assert sets == [f"{s}.bin" for s in ("agedb_30", "cfp_fp", "lfw", "cplfw", "calfw")]
    assert (config["evaluation"]["every"], config["evaluation"]["flip"]) == (0, True)


def test_two_groups() -> None:
    """Convolutions, linears and PReLU are decayed, biases included; BatchNorm's parameters are not."""
    thin = ["--method.backbone_options", recipes.tiny("ir_18")]
    parsed = parse(["--config", str(recipes.CONFIGS / "adaface" / "ir18_casia.yaml"), *thin])
    network = parsed.config.method.networks()["backbone"]
    groups = parsed.config.method.param_groups("backbone")
    check_groups("backbone", network, groups)
    decayed, plain = resolve_groups(parsed.config.optimizer, groups)  # type: ignore[arg-type]
    assert (decayed.weight_decay, plain.weight_decay) == (5e-4, 0)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    layers = [m for m in network.modules() if isinstance(m, norms) and m.affine]
    assert {id(p) for p in plain.parameters} == {id(p) for m in layers for p in m.parameters()}
    slopes = [m.weight for m in network.modules() if isinstance(m, nn.PReLU)]
    biases = [m.bias for m in network.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    assert slopes
    assert biases
    assert {id(p) for p in (*slopes, *biases)} <= {id(p) for p in decayed.parameters}


@pytest.mark.parametrize("name", ["ir18_casia", "lfw_small"])
def test_two_steps(name: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEX_DATA", str(tmp_path))
    small = [] if name == "lfw_small" else recipes.small_network("adaface", f"{name}.yaml")
    recipes.two_steps("adaface", f"{name}.yaml", faces, tmp_path / "run", *small)


def test_lfw_small_differs_from_arcface_s_in_the_method_alone() -> None:
    ours, theirs = (recipes.written(f, "lfw_small.yaml") for f in ("adaface", "arcface"))
    for config in (ours, theirs):
        del config["trainer"]["output"], config["method"]["init_args"]["margin"]
        for key in ("init", "norm_decay", "input"):
            config["method"]["init_args"].pop(key, None)
    assert ours == theirs
