"""configs/magface: every recipe against the numbers of the spec's table (A5, A8), and two real steps with each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facex.train.parsing import parse
from tests.configs import recipes

FOLDER = recipes.CONFIGS / "magface"
ALL = recipes.recipe_names("magface")
PUBLISHED = (10, 110, 0.45, 0.8, 35)
# file: (architecture, classes, (l_a, u_a, l_m, u_m, lambda_g), form, precision, SyncBatchNorm). Written from the spec.
TABLE: dict[str, tuple[str, int, tuple[float, ...], str, str, bool]] = {
    "ms1mv2_iresnet50_dp.yaml": ("iresnet50", 85742, PUBLISHED, "arc", "fp32", False),
    "ms1mv2_iresnet50_ddp.yaml": ("iresnet50", 85742, PUBLISHED, "arc", "fp32", True),
    "ms1mv2_iresnet50_ddp_fp16.yaml": ("iresnet50", 85742, PUBLISHED, "arc", "fp16", True),
    "ms1mv2_iresnet50_cos.yaml": ("iresnet50", 85742, (10, 110, 0.35, 0.8, 150), "cos", "fp32", True),
    "ms1mv2_iresnet50_cos_fp16.yaml": ("iresnet50", 85742, (10, 110, 0.35, 0.8, 150), "cos", "fp16", True),
    "ms1mv2_iresnet100_dp.yaml": ("iresnet100", 85742, PUBLISHED, "arc", "fp32", False),
    "ms1mv2_iresnet100_ddp.yaml": ("iresnet100", 85742, PUBLISHED, "arc", "fp32", True),
    "ms1mv2_iresnet100_ddp_fp16.yaml": ("iresnet100", 85742, PUBLISHED, "arc", "fp16", True),
    "casia_iresnet18.yaml": ("iresnet18", 10572, PUBLISHED, "arc", "fp32", False),
    "finetune.yaml": ("iresnet50", 85742, (1, 51, 0.45, 1, 5), "arc", "fp32", True),
}
OURS = {"demo.yaml", "lfw_small.yaml"}
ARCFACE = "casia_iresnet18_arcface.yaml"
THIN = recipes.THIN


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people, four pictures each, in a folder per person."""
    return recipes.make_faces(tmp_path_factory.mktemp("faces"))


def resolved(name: str, *overrides: str) -> dict[str, Any]:
    return recipes.resolved("magface", name, *overrides)


def test_every_recipe_is_in_a_table() -> None:
    assert set(ALL) == {*TABLE, *OURS, ARCFACE}


def common_settings(config: dict[str, Any]) -> None:
    """What all official scripts share: SGD, x 0.1 at 10, 18, 22 of 25 epochs, decay on everything, no clipping."""
    optimizer = config["optimizer"]
    assert (optimizer["name"], optimizer["lr"], optimizer["momentum"]) == ("sgd", 0.1, 0.9)
    assert (optimizer["weight_decay"], optimizer["no_decay"], optimizer["nesterov"]) == (5e-4, "none", False)
    schedule = config["schedule"]
    assert (schedule["kind"], schedule["milestones"], schedule["gamma"]) == ("step", [10, 18, 22], 0.1)
    assert (schedule["warmup_epochs"], schedule.get("warmup_steps")) == (0, None)
    trainer = config["trainer"]
    assert (trainer["epochs"], trainer["global_batch"], trainer["clip"]["norm"]) == (25, 512, 0)
    assert config["head"].get("sample_rate") is None
    assert config["data"].get("transforms") is None  # the default: a horizontal flip of half the samples


@pytest.mark.parametrize("name", TABLE)
def test_recipe_equals_the_spec(name: str) -> None:
    backbone, classes, margins, form, precision, sync = TABLE[name]
    config = resolved(name, "--method.backbone_options", THIN)
    method = config["method"]["init_args"]
    assert config["method"]["class_path"].endswith("MagFace")
    assert (method["backbone"], method["embedding_size"], method["form"], method["scale"]) == (backbone, 512, form, 64)
    assert tuple(method[k] for k in ("l_a", "u_a", "l_margin", "u_margin", "lambda_g")) == margins
    assert (method["easy_margin"], method["sample_rate"], method.get("head_options")) == (True, 1.0, None)
    assert config["data"]["num_classes"] == classes
    assert (config["trainer"]["precision"], config["trainer"]["sync_bn"]) == (precision, sync)
    common_settings(config)


def test_arcface_recipe() -> None:
    parsed = parse(["--config", str(FOLDER / ARCFACE), "--method.backbone_options", THIN])
    method = parsed.config.method
    assert method.head is not None
    assert (method.head.margin.scale, method.head.margin.m, method.head.embedding_size) == (64, 0.5, 512)
    assert (method.input.color, method.input.mean, method.input.std) == ("bgr", (0, 0, 0), (255, 255, 255))
    assert parsed.resolved["method"]["init_args"]["backbone"] == "iresnet18"
    assert parsed.resolved["data"]["num_classes"] == 10572
    common_settings(parsed.resolved)


@pytest.mark.parametrize("name", ALL)
def test_two_steps(name: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEX_DATA", str(tmp_path))
    small = [] if name in OURS else recipes.small_network("magface", name)
    recipes.two_steps("magface", name, faces, tmp_path / "run", *small)
