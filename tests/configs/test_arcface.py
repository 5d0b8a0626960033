"""configs/arcface: every recipe against the numbers of the spec's table (F), and two real steps of each distinct shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from facex.errors import ConfigError, DataError
from facex.models import create_backbone
from facex.train.config import ScheduleConfig
from facex.train.schedules import build_schedule
from tests.configs import recipes


class Row(NamedTuple):
    """A line of the table. Written from the spec, not read from the recipes."""

    backbone: str
    data: str
    rate: float = 1.0
    lr: float = 0.1
    epochs: int = 20
    warmup: int = 0
    decay: float = 5e-4
    per_gpu: int = 128
    gpus: int = 8
    accumulation: int = 1
    interclass: float = 0.0
    optimizer: str = "sgd"


CLASSES = {
    "ms1mv2": 85742,
    "ms1mv3": 93431,
    "glint360k": 360232,
    "wf4m": 205990,
    "wf12m": 617970,
    "flip": 617970,
    "conflict": 1017970,
    "wf42m": 2059906,
    "speed": 300000,
}
VIT: dict[str, Any] = {"rate": 0.3, "lr": 0.001, "epochs": 40, "warmup": 4, "decay": 0.1, "optimizer": "adamw"}
W = "wf42m"
TABLE = {
    "ms1mv2_r50": Row("r50", "ms1mv2"),
    "ms1mv2_r100": Row("r100", "ms1mv2"),
    "ms1mv2_mbf": Row("mbf", "ms1mv2", epochs=40, decay=1e-4),
    "ms1mv3_r50": Row("r50", "ms1mv3"),
    "ms1mv3_r100": Row("r100", "ms1mv3"),
    "ms1mv3_mbf": Row("mbf", "ms1mv3", epochs=40, decay=1e-4),
    "ms1mv3_r50_onegpu": Row("r50", "ms1mv3", lr=0.02, gpus=1),
    "glint360k_r50": Row("r50", "glint360k", decay=1e-4),
    "glint360k_r100": Row("r100", "glint360k", decay=1e-4),
    "glint360k_mbf": Row("mbf", "glint360k", decay=1e-4),
    "wf4m_r50": Row("r50", "wf4m"),
    "wf4m_r100": Row("r100", "wf4m"),
    "wf4m_mbf": Row("mbf", "wf4m", decay=1e-4),
    "wf12m_r50": Row("r50", "wf12m"),
    "wf12m_r100": Row("r100", "wf12m"),
    "wf12m_mbf": Row("mbf", "wf12m", decay=1e-4),
    "wf12m_pfc02_r100": Row("r100", "wf12m", 0.2),
    "wf12m_flip_r50": Row("r50", "flip", warmup=2),
    "wf12m_flip_pfc01_filter04_r50": Row("r50", "flip", 0.1, warmup=2, interclass=0.4),
    "wf12m_conflict_r50": Row("r50", "conflict", warmup=2),
    "wf12m_conflict_r50_pfc03_filter04": Row("r50", "conflict", 0.3, warmup=2, interclass=0.4),
    "wf42m_pfc02_r100": Row("r100", W, 0.2),
    "wf42m_pfc02_r100_16gpus": Row("r100", W, 0.2, 0.2, warmup=2, gpus=16),
    "wf42m_pfc02_r100_32gpus": Row("r100", W, 0.2, 0.4, warmup=2, gpus=32),
    "wf42m_pfc02_16gpus_r100": Row("r100", W, 0.2, 0.3, warmup=1, per_gpu=256, gpus=16),
    "wf42m_pfc02_16gpus_r50_bs8k": Row("r50", W, 0.2, 0.6, warmup=4, per_gpu=512, gpus=16),
    "wf42m_pfc02_8gpus_r50_bs4k": Row("r50", W, 0.2, 0.4, warmup=2, per_gpu=512),
    "wf42m_pfc02_32gpus_r50_bs4k": Row("r50", W, 0.2, 0.4, warmup=2, gpus=32),
    "wf42m_pfc02_16gpus_mbf_bs8k": Row("mbf", W, 0.2, 0.4, warmup=2, decay=1e-4, per_gpu=512, gpus=16),
    "wf42m_pfc03_32gpu_r18": Row("r18", W, 0.3, 0.4, warmup=2, gpus=32),
    "wf42m_pfc03_32gpu_r50": Row("r50", W, 0.3, 0.4, warmup=2, gpus=32),
    "wf42m_pfc03_32gpu_r100": Row("r100", W, 0.3, 0.4, warmup=2, gpus=32),
    "wf42m_pfc03_32gpu_r200": Row("r200", W, 0.3, 0.4, warmup=2, gpus=32),
    "wf42m_pfc0008_32gpu_r100": Row("r100", W, 0.0, 0.4, warmup=2, per_gpu=512, gpus=32),
    "wf42m_pfc03_40epoch_64gpu_vit_t": Row("vit_t", W, per_gpu=384, gpus=64, **VIT),
    "wf42m_pfc03_40epoch_64gpu_vit_s": Row("vit_s", W, per_gpu=384, gpus=64, **VIT),
    "wf42m_pfc03_40epoch_64gpu_vit_b": Row("vit_b", W, per_gpu=384, gpus=64, **VIT),
    "wf42m_pfc03_40epoch_64gpu_vit_l": Row("vit_l_dp005_mask_005", W, per_gpu=384, gpus=64, **VIT),
    "wf42m_pfc03_40epoch_8gpu_vit_t": Row("vit_t", W, per_gpu=512, **VIT),
    "wf42m_pfc03_40epoch_8gpu_vit_b": Row("vit_b", W, per_gpu=256, accumulation=12, **VIT),
    "wf42m_pfc02_vit_h": Row("vit_h", W, per_gpu=768, **{**VIT, "rate": 0.5, "epochs": 16, "warmup": 2}),
    "3millions": Row("mbf", "speed", 0.1, epochs=30, warmup=-1),
}
ARC = ("ms1mv2", "ms1mv3")
DALI_AUG = ["ResizeThereAndBack", "SlightBlur", "HueSaturation", "RandomGrey", "HorizontalFlip"]
SWAPPED = ["--method.backbone", "resface_xs", "--method.backbone_options", "{}"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people, four pictures each, in a folder per person."""
    return recipes.make_faces(tmp_path_factory.mktemp("faces"))


def test_every_recipe_is_in_the_table() -> None:
    assert {n.removesuffix(".yaml") for n in recipes.recipe_names("arcface")} == {*TABLE, "lfw_small"}


@pytest.mark.parametrize("name", TABLE)
def test_recipe_equals_the_spec(name: str) -> None:
    row = TABLE[name]
    config = recipes.resolved("arcface", f"{name}.yaml", *SWAPPED)
    check_method(row, config["method"], recipes.written("arcface", f"{name}.yaml")["method"]["init_args"])
    trainer = config["trainer"]
    assert config["data"]["num_classes"] == CLASSES[row.data]
    assert trainer["global_batch"] == row.per_gpu * row.gpus * row.accumulation
    assert (trainer["micro_batch"], trainer["epochs"]) == (row.per_gpu, row.epochs)
    assert (trainer["precision"], trainer["fp16_growth_interval"]) == ("fp16", 100)
    # summed gradients cut to 5 are averaged ones cut to 5 / accumulation; the head is left out
    assert trainer["clip"]["norm"] == pytest.approx(5 / row.accumulation, rel=1e-6)
    assert (trainer["clip"]["scope"], trainer["sync_bn"], trainer["seed"]) == ("network", False, 2048)
    optimizer = config["optimizer"]
    assert (optimizer["name"], optimizer["lr"], optimizer["weight_decay"]) == (row.optimizer, row.lr, row.decay)
    assert (optimizer["momentum"], optimizer["betas"], optimizer["no_decay"]) == (0.9, [0.9, 0.999], "none")
    assert not config["head"]["sparse_update"]
    schedule = config["schedule"]
    assert (schedule["kind"], schedule["power"], schedule["first_step"]) == ("polynomial", 1, "base")
    assert (schedule["warmup_epochs"], schedule["min_lr"]) == (row.warmup, 0)
    sets = [Path(b).name for b in config["evaluation"]["bins"]]
    assert sets == (["lfw.bin", "cfp_fp.bin", "agedb_30.bin"] if row.data != "speed" else [])
    assert not sets or config["evaluation"]["every"] == 2000
    transforms = [t["class_path"].rsplit(".", 1)[-1] for t in config["data"].get("transforms") or []]
    assert transforms == (DALI_AUG if row.backbone == "vit_h" else [])  # none named: the flip of half the samples


def check_method(row: Row, method: dict[str, Any], written: dict[str, Any]) -> None:
    """Network, margin, input."""
    init = method["init_args"]
    assert method["class_path"].endswith("Recogniser")
    assert (written["backbone"], init["embedding_size"]) == (row.backbone, 512)
    assert (init["sample_rate"], init["init"], init["norm_decay"]) == (row.rate, "normal", True)
    margin = init["margin"]
    kind, m = ("ArcFace", 0.5) if row.data in ARC else ("CosFace", 0.4)
    assert margin["class_path"].rsplit(".", 1)[-1] == kind
    assert (margin["init_args"]["s"], margin["init_args"]["m"]) == (64, m)
    assert margin["init_args"]["interclass_filter"] == row.interclass
    if kind == "ArcFace":
        assert (margin["init_args"]["margin_grad"], margin["init_args"]["past_pi"]) == ("straight_through", "none")
    assert (init["input"]["height"], init["input"]["width"], init["input"]["color"]) == (112, 112, "rgb")
    assert init["input"]["mean"] == init["input"]["std"] == [127.5, 127.5, 127.5]
    masked = {"official_masking": True} if "mask_005" in row.backbone else None
    assert written.get("backbone_options") == masked


@pytest.mark.parametrize("backbone", sorted({row.backbone for row in TABLE.values()}))
def test_the_network_exists_with_these_options(backbone: str) -> None:
    options = {"official_masking": True} if "mask_005" in backbone else {}
    with torch.device("meta"):
        network = create_backbone(backbone, embedding_size=512, input_size=(112, 112), **options)
    assert network.embedding_size == 512


@pytest.mark.parametrize("name", ["wf42m_pfc02_16gpus_r50_bs8k", "ms1mv3_r50", "3millions"])
def test_learning_rates_are_the_official_scheduler_s(name: str) -> None:
    """PolynomialLRWarmup, power 1: the base rate at step 0, base k / w up to step w, then a straight line to 0."""
    row, per_epoch = TABLE[name], 10
    schedule = build_schedule(
        ScheduleConfig(**recipes.written("arcface", f"{name}.yaml")["schedule"]),  # type: ignore[arg-type]
        per_epoch,
        row.epochs,
        row.lr,
    )
    total, warm = row.epochs * per_epoch, max(row.warmup, 0) * per_epoch
    assert schedule.lr(0) == row.lr
    assert all(schedule.lr(k) == pytest.approx(row.lr * k / warm) for k in range(1, warm + 1))
    assert all(schedule.lr(k) == pytest.approx(row.lr * (total - k) / (total - warm)) for k in range(warm, total + 1))


# One for each combination of kind of network, optimizer, sampling, filter, accumulation and transforms.
SHAPES = [
    "ms1mv3_r50_onegpu",
    "glint360k_mbf",
    "wf12m_flip_pfc01_filter04_r50",
    "wf42m_pfc0008_32gpu_r100",
    "wf42m_pfc03_40epoch_8gpu_vit_b",
    "wf42m_pfc02_vit_h",
    "3millions",
    "lfw_small",
]


@pytest.mark.parametrize("name", SHAPES)
def test_two_steps(name: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEX_DATA", str(tmp_path))
    small = [] if name == "lfw_small" else recipes.small_network("arcface", f"{name}.yaml")
    recipes.two_steps("arcface", f"{name}.yaml", faces, tmp_path / "run", *small)


def test_lfw_small_differs_from_magface_s_in_the_margin_alone() -> None:
    ours, theirs = (recipes.written(f, "lfw_small.yaml") for f in ("arcface", "magface"))
    for key in ("data", "optimizer", "schedule", "evaluation"):
        assert ours[key] == theirs[key], key
    for key in ("global_batch", "epochs", "precision", "channels_last"):
        assert ours["trainer"][key] == theirs["trainer"][key], key
    network, other = (c["method"]["init_args"] for c in (ours, theirs))
    for key in ("backbone", "embedding_size", "backbone_options"):
        assert network[key] == other[key], key
    assert network["margin"]["init_args"]["s"] == other["scale"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method.backbone", "r500"], "no backbone 'r500'; did you mean 'r50'"),
        (["--method.backbone", "vit_t", "--method.backbone_options", "{depht: 3}"], "did you mean 'depth'"),
        (["--method.margin", "Combined", "--method.margin.m2", "0.3", "--method.margin.m3", "0.2"], "ignores m1=1"),
    ],
)
def test_bad_recipes_are_refused_with_advice(options: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        recipes.resolved("arcface", "ms1mv3_r50.yaml", *options)


def test_class_counts_that_do_not_fit(faces: Path, tmp_path: Path) -> None:
    small = recipes.small_network("arcface", "ms1mv3_r50.yaml")
    with pytest.raises(DataError, match=r"has 4 classes, data\.num_classes says 93431"):
        recipes.two_steps("arcface", "ms1mv3_r50.yaml", faces, tmp_path, *small, "--data.num_classes", "93431")
