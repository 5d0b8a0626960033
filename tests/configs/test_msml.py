"""configs/msml: every recipe against the spec's table (5), its learning rates, the arms beside each other, two real steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from facex.commands.demo import read_plan
from facex.train.config import ScheduleConfig
from facex.train.schedules import build_schedule
from tests.configs import recipes

OURS = {"demo.yaml", "demo_plain.yaml", "lfw_small.yaml", "lfw_small_plain.yaml"}


class Schedule(NamedTuple):
    """Epochs, milestones counted from 1, factor, base rate for 512 samples, factors of osb, fm_ops and the classifier."""

    epochs: int
    milestones: list[int]
    gamma: float
    lr: float
    scales: dict[str, float]
    head: float


MS1M = Schedule(25, [11, 17, 22], 0.1, 0.1, {"osb": 0.1}, 1)
CASIA_50 = Schedule(40, [10, 25], 0.1, 0.01, {"osb": 1, "fm_ops": 10}, 10)
CASIA_LIGHT = Schedule(35, [15], 0.3162, 0.008, {"osb": 1.25, "fm_ops": 12.5}, 10)
CASIA = Schedule(34, [20, 28, 32], 0.1, 0.1, {"osb": 0.1}, 1)
ARC, COS, SOFTMAX = ("AMArcFace", 0.48), ("AMCosFace", 0.4), ("Softmax", None)
MUL, ADD, SUB = (["sigmoid", arith] for arith in ("mul", "add", "sub"))


class Row(NamedTuple):
    """schedule, branch, head, operator's activation and arithmetic, batch of a GPU."""

    schedule: Schedule
    backbone: str
    margin: tuple[str, float | None]
    fm: list[str] | None
    batch: int = 128


# Written from the spec.
TABLE = {
    "ms1m_iresnet18": Row(MS1M, "iresnet18", ARC, MUL),
    "ms1m_iresnet34": Row(MS1M, "iresnet34", ARC, MUL),
    "ms1m_iresnet50": Row(MS1M, "iresnet50", ARC, MUL),
    "ms1m_lightcnn": Row(MS1M, "lightcnn", SOFTMAX, MUL),
    "webface_iresnet50": Row(CASIA_50, "iresnet50", COS, MUL),
    "webface_lightcnn": Row(CASIA_LIGHT, "lightcnn", SOFTMAX, MUL),
    "webface_iresnet18": Row(CASIA, "iresnet18", ARC, MUL),
    "webface_iresnet34": Row(CASIA, "iresnet34", ARC, MUL),
    "light_msml_1": Row(CASIA_LIGHT, "lightcnn", SOFTMAX, ADD),
    "ires50_msml_3": Row(CASIA, "iresnet50", ARC, SUB, 80),
    "arc18_no_occ_1": Row(MS1M, "iresnet18", ("AMArcFace", 0.5), None),
    "arc18_msml_peer_dec_1": Row(MS1M, "iresnet18", ARC, MUL, 256),
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people, four pictures each, in a folder per person."""
    return recipes.make_faces(tmp_path_factory.mktemp("faces"))


def small(name: str) -> list[str]:
    """Overrides that keep the kind of network and need no file."""
    method = recipes.written("msml", name)["method"]["init_args"]
    blocks = "" if method["backbone"] == "lightcnn" else ", blocks: [1, 1, 1, 1]"
    words = ["--method.backbone_options", f"{{input_size: 48, width: 0.125, osb_width: 0.125{blocks}}}"]
    words += ["--method.warm_start", "false", "--method.data_masks", "false"]
    return words + (["--method.peer.kd_weight", "0"] if "peer" in method else [])


def test_every_recipe_is_in_the_table() -> None:
    assert set(recipes.recipe_names("msml")) == {*(f"{n}.yaml" for n in TABLE), *OURS}


@pytest.mark.parametrize("name", TABLE)
def test_recipe_equals_the_spec(name: str) -> None:
    row, config = TABLE[name], recipes.resolved("msml", f"{name}.yaml", *small(f"{name}.yaml"))
    check_method(row, recipes.written("msml", f"{name}.yaml")["method"]["init_args"], config["method"])
    schedule, batch = row.schedule, 4 * row.batch
    trainer, optimizer = config["trainer"], config["optimizer"]
    assert (trainer["global_batch"], trainer["epochs"], trainer["seed"]) == (batch, schedule.epochs, 1)
    assert (trainer["clip"]["norm"], trainer["clip"]["scope"], trainer["sync_bn"]) == (5, "joint", False)
    scaler = (trainer["precision"], trainer["fp16_initial_scale"], trainer["fp16_growth_interval"])
    assert scaler == ("fp16", row.batch, 100)
    assert (optimizer["name"], optimizer["momentum"], optimizer["weight_decay"]) == ("sgd", 0.9, 5e-4)
    assert (optimizer["nesterov"], optimizer["no_decay"]) == (False, "none")
    assert optimizer["lr"] == pytest.approx(schedule.lr * batch / 512, rel=1e-9)
    assert config["head"]["lr_scale"] == schedule.head
    check_data(name, row, config)


def check_method(row: Row, written: dict[str, Any], method: dict[str, Any]) -> None:
    """Branches, head, operators, rates of the parts."""
    assert method["class_path"].endswith("MSML")
    init, margin = method["init_args"], method["init_args"]["margin"]
    assert init["backbone"] == row.backbone
    assert margin["class_path"].rsplit(".", 1)[-1] == row.margin[0]
    if row.margin[1] is not None:
        values = margin["init_args"]
        assert tuple(values[k] for k in ("s", "m", "a", "k")) == (64, row.margin[1], 0, 0)
    assert (init["dropout"], init["segmentation_weight"], init["statistics"], init["parts"]) == (0, 1, "local", "all")
    assert (init["clamp_min"], written.get("warm_start", False)) == (0, row.schedule in (CASIA_50, CASIA_LIGHT))
    if row.fm is None:
        assert (init["use_osb"], init["fm_layers"], init["light"]) == (False, [0, 0, 0, 0], False)
        return
    fm = init["fm"]
    assert [fm[k] for k in ("kernel_size", "resblocks", "activation", "arith", "skip")] == [3, 2, *row.fm, True]
    assert (init["use_osb"], init["fm_layers"], init["light"], init["texture"]) == (True, [1, 1, 1, 1], True, True)
    assert init["lr_scales"] == row.schedule.scales


def check_data(name: str, row: Row, config: dict[str, Any]) -> None:
    """Class count, transforms, validation, peer."""
    casia = row.schedule in (CASIA, CASIA_50, CASIA_LIGHT)
    assert config["data"]["num_classes"] == (10572 if casia else 93431)
    steps = [(t["class_path"].rsplit(".", 1)[-1], t.get("init_args", {})) for t in config["data"]["transforms"]]
    if row.fm is None:
        assert steps == [("HorizontalFlip", {"p": 0.5})]
    else:
        peer = config["method"]["init_args"].get("peer")
        assert [s for s, _ in steps] == [*(["KeepOriginal"] if peer else []), "Occlude", "HorizontalFlip"]
        assert (steps[-2][1]["policy"], steps[-1][1]["p"]) == ("casia" if casia else "ms1m", 0.6)
        assert bool(peer) == (name == "arc18_msml_peer_dec_1")
        assert not peer or (peer["use_conv"], peer["mask_trans"], peer["use_decoder"]) == (True, "conv", True)
    sets = [Path(b).name for b in config["evaluation"]["bins"]]
    assert sets == ([] if casia else ["lfw.bin", "cfp_fp.bin", "agedb_30.bin"])
    assert casia or config["evaluation"]["every"] == 8000


@pytest.mark.parametrize("name", TABLE)
def test_learning_rates_fall_at_the_official_epochs(name: str) -> None:
    row, per_epoch = TABLE[name].schedule, 10
    written = recipes.written("msml", f"{name}.yaml")["schedule"]
    schedule = build_schedule(ScheduleConfig(**written), per_epoch, row.epochs, row.lr)  # type: ignore[arg-type]
    for epoch in range(row.epochs):
        factor = row.gamma ** sum(m - 1 <= epoch for m in row.milestones)
        rates = [schedule.lr(epoch * per_epoch + k) for k in range(per_epoch)]
        assert rates == pytest.approx([row.lr * factor] * per_epoch)


@pytest.mark.parametrize("name", [*(f"{n}.yaml" for n in TABLE), *sorted(OURS)])
def test_two_steps(name: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEX_DATA", str(tmp_path))
    recipes.two_steps("msml", name, faces, tmp_path / "run", *small(name))


@pytest.mark.parametrize("name", ["demo", "lfw_small"])
def test_both_arms_differ_in_the_branch_and_its_operators_alone(name: str) -> None:
    first, second = (recipes.written("msml", f"{name}{arm}.yaml") for arm in ("", "_plain"))
    for config in (first, second):
        del config["trainer"]["output"]
        config["trainer"].pop("visuals_every", None)
        for key in ("fm", "fm_layers", "use_osb", "data_masks"):
            config["method"]["init_args"].pop(key, None)
    assert first == second
    plain = recipes.written("msml", f"{name}_plain.yaml")["method"]["init_args"]
    assert (plain["use_osb"], plain["fm_layers"]) == (False, [0, 0, 0, 0])


def test_the_demo_s_plan() -> None:
    plan = read_plan(recipes.CONFIGS / "msml" / "demo.plan.yaml")
    assert [(s.train.name, s.folder) for s in plan.stages if s.train] == [
        ("demo.yaml", "msml"),
        ("demo_plain.yaml", "plain"),
    ]
    assert "--protocol occlusion" in plan.stages[-1].run
    assert "--compare plain=$output/plain" in plan.stages[-1].run
