"""configs/lafs: every recipe against the published arguments, and two real steps with each kind."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from facex.commands.demo import read_plan
from facex.train.schedules import GradualCosineSchedule, build_schedule
from tests.configs import recipes

OURS = {
    *("demo.yaml", "demo_stage1.yaml", "demo_finetune.yaml"),
    *("lfw_small.yaml", "lfw_small_finetune.yaml", "lfw_small_scratch.yaml"),
}
ALL = sorted(set(recipes.recipe_names("lafs")) - OURS)
# file: (classes, micro-batch of a GPU, RandAugment's magnitude (None: flip only), mixup's probability). Written from the paper's scripts.
SUPERVISED: dict[str, tuple[int, int, int | None, float]] = {
    "stage1_ms1mv3.yaml": (93431, 168, 2, 0.2),
    "stage1_webface4m.yaml": (205990, 220, 1, 0.1),
    "finetune_ms1mv3.yaml": (93431, 200, 2, 0.2),
    "finetune_webface4m.yaml": (205990, 200, 1, 0.1),
    "finetune_webface4m_dino.yaml": (205990, 200, 1, 0.1),
    "finetune_webface4m_flip.yaml": (205990, 200, None, 0.0),
    **{
        f"fewshot_{shots}shot_{percent}percent.yaml": (205990, 200, 1, 0.1)
        for shots, percent in itertools.product((1, 2, 4, 10), (1, 10, 100))
    },
}
PRETRAINING = {
    "pretrain_ms1mv3.yaml": "lafs",
    "pretrain_webface4m_1shot.yaml": "lafs",
    "pretrain_dino_webface4m_1shot.yaml": "dino",
}
TINY = {"dim": 16, "depth": 1, "heads": 1, "head_dim": 8, "mlp_dim": 16}
SMALL = [
    "--method.backbone_options",
    "{dim: 16, depth: 1, heads: 1, head_dim: 8, mlp_dim: 16, landmark_width: 0.25}",
]
SMALL_PRE = [
    *("--method.backbone_options", "{dim: 16, depth: 1, heads: 1, head_dim: 8, mlp_dim: 16}"),
    *("--method.landmarks.width", "0.25", "--method.head.out_dim", "16", "--method.head.hidden_dim", "16"),
]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people, four pictures each, in a folder per person."""
    return recipes.make_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Part fViT with class centres, as the first stage leaves it."""
    from facex_lafs import LAFS

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("files") / "stage1.pth"
    torch.save(LAFS(backbone_options={**TINY, "landmark_width": 0.25}).backbone.state_dict(), path)
    return path


def small(name: str) -> list[str]:
    return SMALL_PRE if name in PRETRAINING else SMALL


def resolved(name: str) -> dict[str, Any]:
    return recipes.resolved("lafs", name, *small(name))


def test_every_recipe_is_in_a_table() -> None:
    assert set(ALL) == {*SUPERVISED, *PRETRAINING}


@pytest.mark.parametrize("name", SUPERVISED)
def test_supervised_recipe_equals_the_published_script(name: str) -> None:
    classes, micro, magnitude, prob = SUPERVISED[name]
    config = resolved(name)
    method = config["method"]["init_args"]
    assert config["method"]["class_path"].endswith("LAFS")
    assert (method["backbone"], method["scale"], method["margin"]) == ("part_fvit_b", 64, 0.4)
    assert method["mixup"] == {"alpha": 0.2, "prob": prob}
    assert (method["label_smoothing"], method["eval_input_scale"]) == (0, "official")
    decay = method["decay"]
    assert (decay["weights"], decay["stn"], decay["flat"], decay.get("layer")) == (0.1, 0.05, 0.0, None)
    assert not method["regulariser"]["weights"]
    trainer, optimizer = config["trainer"], config["optimizer"]
    assert (trainer["global_batch"], trainer["micro_batch"], trainer["epochs"]) == (6 * micro, micro, 34)
    assert (trainer["precision"], trainer["clip"]["norm"]) == ("fp16", 0)
    assert optimizer["lr"] == pytest.approx(3 / 480 * 1e-3 * math.sqrt(2 * micro / 336) * 336, rel=1e-6)
    assert (optimizer["name"], optimizer["betas"], optimizer["eps"], optimizer["weight_decay"]) == (
        "adamw",
        [0.9, 0.999],
        1e-8,
        0.1,
    )
    assert config["head"].get("weight_decay") is None  # the class centres decay as the rest
    assert config["data"]["num_classes"] == classes
    assert config["evaluation"]["selection"]["class_path"].endswith("BestRule")
    kinds = [t["class_path"].rsplit(".", 1)[-1] for t in config["data"]["transforms"]]
    assert kinds == (["HorizontalFlip"] if magnitude is None else ["HorizontalFlip", "RandAugment", "CropJitterErase"])
    if magnitude is not None:
        augment, crop = (t["init_args"] for t in config["data"]["transforms"][1:])
        assert (augment["magnitude"], augment["deviation"], augment["layers"], augment["p"]) == (magnitude, 0.5, 2, 0.5)
        assert (crop["scale"], crop["jitter"], crop["erase_p"]) == ([0.9, 1.0], [0.1] * 4, 0.5)
        assert (crop["erase_scale"], crop["erase_ratio"]) == ([0.02, 0.1], [0.3, 3.3])


def test_rates_of_a_supervised_recipe_follow_the_published_schedule() -> None:
    from facex_lafs.recipe import finetune_schedule

    from facex.train.config import ScheduleConfig

    config = recipes.resolved("lafs", "finetune_webface4m.yaml", *SMALL)
    images = 4_235_242
    per_epoch = images // config["trainer"]["global_batch"]
    settings: Any = ScheduleConfig(**config["schedule"])
    mine = build_schedule(settings, per_epoch, config["trainer"]["epochs"], config["optimizer"]["lr"])
    published, total = finetune_schedule(images, 200, 2, 3, 34, 5, 1e-3)
    assert isinstance(mine, GradualCosineSchedule)
    for step in range(0, total, 997):
        # epochs are whole batches here; the published one counts their remainders too
        assert mine.lr(step) == pytest.approx(published.lr(step), abs=1e-3 * published.base_lr)


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_recipe_equals_the_published_script(name: str) -> None:
    config = resolved(name)
    method = config["method"]["init_args"]
    assert (method["recipe"], method["backbone"]) == (PRETRAINING[name], "fvit_b")
    assert recipes.written("lafs", name)["method"]["init_args"]["head"] == {"out_dim": 100000, "norm_last_layer": True}
    teacher = {
        "momentum": 0.996,
        "momentum_end": 1.0,
        "mode": "train",
        "student_temp": 0.1,
        "warmup_temp": 0.07,
        "temp": 0.04,
    }
    assert method["teacher"] == {**teacher, "warmup_temp_epochs": 30, "center_momentum": 0.9}
    views, landmarks = method["views"], method["landmarks"]
    assert (views["local_views"], views["global_scale"]) == (8, [0.4, 1.0])
    assert (views["local_scale"], views["local_size"]) == ([0.05, 0.4], 48)
    assert (landmarks["count"], landmarks["sampled"], landmarks["noise_sigma"]) == (196, 36, 5)
    assert (landmarks["replacement"], landmarks["positional"]) == (True, "first")
    assert (method["weight_decay"], method["weight_decay_end"], method["freeze_last_layer"]) == (0.04, 0.4, 1)
    trainer, schedule = config["trainer"], config["schedule"]
    assert (trainer["global_batch"], trainer["epochs"], trainer["precision"]) == (164, 41, "fp16")
    assert trainer["clip"] == {"norm": 3, "scope": "per_tensor"}
    assert config["optimizer"]["lr"] == pytest.approx(5e-4 * 164 / 256)
    assert (schedule["kind"], schedule["warmup_epochs"], schedule["warmup_inclusive"]) == ("cosine", 10, True)
    assert schedule["min_lr"] == 1e-6
    assert config["data"]["transforms"] == []  # the views flip


def test_few_shot_recipes_differ_in_their_data_alone() -> None:
    first = recipes.written("lafs", "fewshot_1shot_100percent.yaml")
    first["data"].pop("path")
    paths = set()
    for name in (n for n in ALL if n.startswith("fewshot")):
        config = recipes.written("lafs", name)
        paths.add(config["data"].pop("path"))
        config["trainer"]["output"] = first["trainer"]["output"]
        assert config == first
    assert len(paths) == 12


@pytest.mark.parametrize(
    "name",
    [
        "stage1_ms1mv3.yaml",
        "finetune_webface4m.yaml",
        "finetune_webface4m_flip.yaml",
        "fewshot_2shot_10percent.yaml",
        *PRETRAINING,
    ],
)
def test_two_steps(name: str, faces: Path, stage1: Path, tmp_path: Path) -> None:
    words = [*small(name), "--trainer.precision", "fp32"]
    if name in PRETRAINING:
        source = [] if PRETRAINING[name] == "dino" else [{"path": str(stage1), "network": "landmarks"}]
        words += ["--init_from", str(source), "--evaluation.bins", "[]"]
        recipes.two_steps("lafs", name, faces, tmp_path / "run", *words)
        return
    source = [{"path": str(stage1)}] if recipes.written("lafs", name).get("init_from") else []
    recipes.two_steps("lafs", name, faces, tmp_path / "run", *words, "--init_from", str(source))


@pytest.mark.parametrize("name", sorted(OURS))
def test_two_steps_of_ours(name: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEX_DATA", str(tmp_path))
    words = ["--init_from", "[]"]
    if recipes.written("lafs", name)["method"]["class_path"] == "LAFSPretrain":
        words += ["--method.landmarks.random_coordinates", "true"]  # no stage 1 is at hand
    recipes.two_steps("lafs", name, faces, tmp_path / "run", *words)


def test_one_network_goes_through_all_stages_of_ours() -> None:
    supervised = ("demo_stage1.yaml", "demo_finetune.yaml", "lfw_small_finetune.yaml", "lfw_small_scratch.yaml")
    methods = [recipes.written("lafs", name)["method"]["init_args"] for name in supervised]
    tuned = [method.pop("regulariser", None) for method in methods]
    assert tuned[0] is None and all(one == tuned[1] for one in tuned[2:])  # both arms alike
    assert all(method == methods[0] for method in methods)
    part = methods[0]["backbone_options"]
    for name in ("demo.yaml", "lfw_small.yaml"):
        method = recipes.written("lafs", name)["method"]["init_args"]
        assert method["backbone_options"].items() <= {**part, "drop_path": 0.0}.items()  # no names, only a rate
        landmarks = method["landmarks"]
        assert (landmarks["count"], landmarks["width"]) == (part["num_patches"], part["landmark_width"])
        assert (landmarks["coordinate_max"], method["input"]) == (part["coordinate_max"], methods[0]["input"])


def test_both_arms_of_ours_differ_in_where_they_start_alone() -> None:
    first, second = (recipes.written("lafs", f"lfw_small_{arm}.yaml") for arm in ("finetune", "scratch"))
    landmarks = [source for source in first.pop("init_from") if source["network"] == "landmarks"]
    assert second.pop("init_from") == landmarks
    assert first["trainer"].pop("output") != second["trainer"].pop("output")
    assert first == second
    plan = read_plan(recipes.CONFIGS / "lafs" / "demo.plan.yaml")
    trained = {stage.folder: stage for stage in plan.stages if stage.train}
    assert list(trained)[:2] == ["stage1", "pretrain"]
    for shots in (1, 2, 4):
        pretrained, scratch = trained[f"lafs_{shots}"], trained[f"scratch_{shots}"]
        assert pretrained.train == scratch.train
        transformer = "{path: $output/pretrain, network: transformer}, "
        assert pretrained.options.replace(transformer, "").strip() == scratch.options
        for arm in ("LAFS", "from scratch"):
            assert f"{arm}@{shots}" in plan.stages[-1].run
