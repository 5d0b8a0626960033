"""One rank and two ranks, every ZeRO stage and precision, stops and resumes: the same losses.

One job of two ranks under the real `deepspeed` launcher and one process without a launcher run all scenarios; the tests
read what they wrote.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facex.data.verification import write_bin
from facex.train.checkpoint_folder import open_checkpoint
from facex.train.reshard import reshard_run
from tests.ports import free_port, job_environment

ROOT = Path(__file__).resolve().parents[2]
Report = dict[str, Any]


def scenario(
    name: str, method: str = "TinyRecogniser", stops: tuple[int, ...] = (), args: Report | None = None, **config: Any
) -> Report:
    trainer = {"micro_batch": 8, "global_batch": 32, "steps": 20, **config.pop("trainer", {})}
    keep = config.pop("keep", False)
    size = config.pop("size", {})
    if method == "SmallIResNet" and not size:
        trainer |= {"micro_batch": 16, "global_batch": 32}
        size = {"samples": 640, "classes": 40}
    return {
        "name": name,
        "method": method,
        "args": args or {},
        "stops": list(stops),
        "keep": keep,
        **size,
        "config": {"trainer": trainer, **config},
    }


def with_zero(stage: int, **trainer: Any) -> Report:
    return {"zero": stage, **trainer}


FP16 = {"precision": "fp16", "fp16_initial_scale": 2.0**20, "fp16_growth_interval": 4, "steps": 24}
SCALED = {"lr": 0.02}
COSINE = {"kind": "cosine", "warmup_steps": 3}
SHARED = [
    scenario("arcface"),
    scenario("magface", args={"margin": "magface"}),
    scenario("iresnet_arcface", "SmallIResNet", optimizer=SCALED),
    scenario("iresnet_magface", "SmallIResNet", args={"margin": "magface"}, optimizer=SCALED),
    scenario("bf16", trainer={"precision": "bf16"}),
    scenario("policy", "TinyPolicy", networks={"recogniser": {"every": 2}}),
    scenario("mae", "TinyMae"),
    scenario("groups", args={"groups": True}, optimizer={"name": "adamw", "lr": 0.01}, schedule=COSINE),
    scenario("clip_network", trainer={"clip": {"norm": 0.5}}),
    scenario("clip_joint", trainer={"clip": {"norm": 0.5, "scope": "joint"}}),
    scenario("clip_tensor", trainer={"clip": {"norm": 0.1, "scope": "per_tensor"}}),
    scenario("sampled", head={"sample_rate": 0.6}),
    scenario("channels_last", trainer={"channels_last": True}),
]
TWO_RANKS = [
    *SHARED,
    *[scenario(f"arcface_z{z}", trainer=with_zero(z)) for z in (1, 2, 3)],
    scenario("iresnet_arcface_z2", "SmallIResNet", trainer=with_zero(2), optimizer=SCALED),
    scenario("iresnet_magface_z3", "SmallIResNet", args={"margin": "magface"}, trainer=with_zero(3), optimizer=SCALED),
    scenario("bf16_z1", trainer=with_zero(1, precision="bf16")),
    scenario("policy_z2", "TinyPolicy", trainer=with_zero(2), networks={"recogniser": {"every": 2}}),
    scenario("mae_z1", "TinyMae", trainer=with_zero(1)),
    scenario("clip_network_z1", trainer=with_zero(1, clip={"norm": 0.5})),
    *[scenario(f"fp16_z{z}", trainer=with_zero(z, **FP16), schedule=COSINE) for z in (0, 1, 2)],
    scenario("long", args={"dropout": 0.3}, trainer=with_zero(0, steps=8)),
    scenario("long_stopped", args={"dropout": 0.3}, stops=(1, 5), trainer=with_zero(0, steps=8)),
    scenario("long_z2", args={"dropout": 0.3}, trainer=with_zero(2, steps=8)),
    scenario("long_z2_stopped", args={"dropout": 0.3}, stops=(3,), trainer=with_zero(2, steps=8)),
    scenario("long_z3", args={"dropout": 0.3}, trainer=with_zero(3, steps=8)),
    scenario("long_z3_stopped", args={"dropout": 0.3}, stops=(3,), trainer=with_zero(3, steps=8)),
    scenario("long_policy", "TinyPolicy", trainer={"steps": 8}, networks={"recogniser": {"every": 2}}),
    scenario(
        "long_policy_stopped", "TinyPolicy", stops=(3,), trainer={"steps": 8}, networks={"recogniser": {"every": 2}}
    ),
    scenario("long_mae", "TinyMae", trainer={"steps": 8}),
    scenario("long_mae_stopped", "TinyMae", stops=(2,), trainer={"steps": 8}),
    scenario("long_fp16", trainer={**FP16, "steps": 10}),
    scenario("long_fp16_stopped", stops=(2, 7), trainer={**FP16, "steps": 10}),
    scenario("ordered", data={"order": "distributed_sampler"}, trainer={"steps": 8}),
    scenario("ordered_stopped", stops=(4,), data={"order": "distributed_sampler"}, trainer={"steps": 8}),
    scenario("half", trainer={"steps": 8, "max_steps": 4}),
    scenario("half_z2", trainer=with_zero(2, steps=8, max_steps=4)),
    scenario("evaluated", evaluation={"every": 7, "selection": "tiny"}, args={"dropout": 0.3}, trainer={"steps": 8}),
    scenario("nan", args={"poison": 3}),
]
ONE_RANK = [
    *SHARED,
    scenario("half", trainer={"steps": 8}, keep=True),
    scenario("half_z2", trainer=with_zero(2, steps=8), keep=True),
    scenario("half_unconverted", trainer=with_zero(2, steps=8), keep=True),
    scenario("other_classes", trainer={"steps": 8}, keep=True, size={"classes": 5}),
    scenario("other_network", "SmallIResNet", trainer={"steps": 8}, keep=True, size={"classes": 7}),
    scenario("other_method", "TinyPolicy", trainer={"steps": 8}, keep=True),
    scenario("other_batch", trainer={"steps": 8, "global_batch": 16}, keep=True),
    scenario("other_order", data={"order": "distributed_sampler"}, trainer={"steps": 8}, keep=True),
    scenario("summed", trainer={"accumulation": "sum"}, optimizer={"lr": 0.05 / 4, "weight_decay": 4 * 5e-4}),
    *[scenario(f"frozen_{n}", args={"groups": "frozen"}, trainer={"steps": n}) for n in (1, 3, 4)],
    scenario("floor", trainer={**FP16, "fp16_min_scale": 2.0**18}),
    scenario("unevaluated", "Wrong", args={"fault": "embed"}, evaluation={"every": 100}, trainer={"steps": 6}),
    scenario("iresnet_recomputed", "SmallIResNet", optimizer=SCALED, trainer={"activation_checkpointing": True}),
]
REFUSED = {
    "fp16_z3": (scenario("fp16_z3", trainer=with_zero(3, precision="fp16")), "bf16"),
    "after_update_z3": (scenario("after_update_z3", "TinyMae", trainer=with_zero(3)), "after_update"),
    "joint_z1": (scenario("joint_z1", trainer=with_zero(1, clip={"norm": 1.0, "scope": "joint"})), "trainer.zero=0"),
    "frozen_z1": (scenario("frozen_z1", args={"groups": "frozen"}, trainer=with_zero(1)), "frozen_until"),
    "sync_bn": (scenario("sync_bn", trainer={"sync_bn": True}), "GPU"),
    "bf16_block": (scenario("bf16_block", deepspeed={"bf16": {"enabled": True}}), "BatchNorm"),
    "no_recompute": (scenario("no_recompute", trainer={"activation_checkpointing": True}), "TinyNet"),
    "no_network": (scenario("no_network", networks={"bakbone": {}}), "backbone"),
    "no_bins": (scenario("no_bins", evaluation={"selection": "other"}), "'other' is none"),
    "head_adam": (scenario("head_adam", optimizer={"name": "adam"}), "head.optimizer"),
    "head_option": (scenario("head_option", head={"options": {"nonsense": 1}}), "nonsense"),
    "name": (scenario("name", "Wrong", args={"fault": "name"}), "bakbone"),
    "labels": (scenario("labels", "Wrong", args={"fault": "labels"}), "without labels"),
    "empty": (scenario("empty", "Wrong", args={"fault": "empty"}), "neither losses nor embeddings"),
    "uneven": (scenario("uneven", "Wrong", args={"fault": "uneven"}), "the same sequence"),
    "twice": (
        scenario("twice", "Wrong", args={"fault": "twice"}, networks={"backbone": {"every": 2}}),
        "every must be 1",
    ),
}
ONE_RANK += [each for each, _ in REFUSED.values()]
# runs of two ranks that one rank goes on with, under another name
COPIES = {
    **{
        name: "half"
        for name in ("half", "other_classes", "other_network", "other_method", "other_batch", "other_order")
    },
    **{name: "half_z2" for name in ("half_z2", "half_unconverted")},
}


def launch(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=job_environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def run_scenarios(scenarios: list[Report], folder: Path, ranks: int, timeout: float = 540) -> dict[str, Report]:
    folder.mkdir(parents=True, exist_ok=True)
    for each in scenarios:
        if "evaluation" in each["config"]:
            each["config"]["evaluation"]["bins"] = [str(make_bin(folder / "tiny.bin"))]
    listing = folder / "scenarios.json"
    listing.write_text(json.dumps(scenarios))
    if ranks == 1:
        command = [sys.executable, "-m", "tests.train.worker"]
    else:
        launcher = str(Path(sys.executable).with_name("deepspeed"))
        command = [
            launcher,
            "--num_accelerators",
            str(ranks),
            "--master_port",
            str(free_port()),
            "--module",
            "tests.train.worker",
        ]
    done = launch([*command, str(listing), str(folder)], timeout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {s["name"]: json.loads((folder / f"{s['name']}.json").read_text()) for s in scenarios}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, Report]:
    return run_scenarios(TWO_RANKS, folder / "two", 2)


@pytest.fixture(scope="module")
def one(folder: Path, two: dict[str, Report]) -> dict[str, Report]:
    for name, source in COPIES.items():
        shutil.copytree(folder / "two" / source, folder / "one" / name)
    reshard_run(folder / "one" / "half_z2", world_size=1)
    return run_scenarios(ONE_RANK, folder / "one", 1)


def make_bin(path: Path) -> Path:
    """A verification set of 20 pairs of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    write_bin(path, [cv2.imencode(".png", picture)[1].tobytes() for picture in noise], [i % 2 == 0 for i in range(20)])
    return path


def losses(report: Report, name: str = "backbone/loss") -> list[float]:
    assert "error" not in report, report["error"]
    return [m[name] for m in report["metrics"]]


@pytest.mark.parametrize(
    ("name", "other", "network"),
    [
        ("arcface", "arcface", "backbone"),
        *[("arcface", f"arcface_z{z}", "backbone") for z in (1, 2, 3)],
        ("magface", "magface", "backbone"),
        ("iresnet_arcface", "iresnet_arcface", "backbone"),
        ("iresnet_arcface", "iresnet_arcface_z2", "backbone"),
        ("iresnet_magface", "iresnet_magface", "backbone"),
        ("iresnet_magface", "iresnet_magface_z3", "backbone"),
        ("policy", "policy", "recogniser"),
        ("policy", "policy", "policy"),
        ("policy", "policy_z2", "recogniser"),
        ("mae", "mae", "encoder"),
        ("mae", "mae_z1", "encoder"),
        ("groups", "groups", "backbone"),
        ("clip_network", "clip_network", "backbone"),
        ("clip_network", "clip_network_z1", "backbone"),
        ("clip_joint", "clip_joint", "backbone"),
        ("clip_tensor", "clip_tensor", "backbone"),
        ("channels_last", "channels_last", "backbone"),
    ],
)
def test_two_ranks_give_the_losses_of_one_with_twice_the_accumulation(
    one: dict[str, Report], two: dict[str, Report], name: str, other: str, network: str
) -> None:
    expected, got = losses(one[name], f"{network}/loss"), losses(two[other], f"{network}/loss")
    assert len(got) == 20
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_real_network_agrees_far_closer(one: dict[str, Report], two: dict[str, Report]) -> None:
    # a small head sums over its classes in float64: in fp32 the network would amplify the order of the sums beyond 1e-4
    assert losses(two["iresnet_magface"]) == pytest.approx(losses(one["iresnet_magface"]), rel=1e-6)
    assert two["iresnet_magface"]["weights"]["backbone"] == pytest.approx(
        one["iresnet_magface"]["weights"]["backbone"], rel=1e-9
    )


@pytest.mark.parametrize("other", ["bf16", "bf16_z1"])
def test_bf16_is_close_on_any_number_of_ranks(one: dict[str, Report], two: dict[str, Report], other: str) -> None:
    assert losses(two[other]) == pytest.approx(losses(one["bf16"]), rel=0.02)
    assert losses(two[other]) != losses(two["arcface"])


def test_clipping_changes_what_it_should(one: dict[str, Report]) -> None:
    plain = losses(one["arcface"])
    for name in ("clip_network", "clip_joint", "clip_tensor"):
        assert losses(one[name])[0] == pytest.approx(plain[0])
        assert losses(one[name])[-1] != pytest.approx(plain[-1], rel=1e-3)


def test_summed_micro_batches_are_their_mean_at_a_multiple_of_the_rate(one: dict[str, Report]) -> None:
    assert losses(one["summed"]) == pytest.approx(losses(one["arcface"]), rel=1e-4)


def test_the_order_is_another_one_and_the_time_is_divided(two: dict[str, Report]) -> None:
    assert losses(two["ordered"]) != pytest.approx(losses(two["long"]), rel=1e-2)
    parts = {k.removeprefix("share/"): v for k, v in two["ordered"]["metrics"][-1].items() if k.startswith("share/")}
    assert set(parts) == {"data", "forward", "head", "backward", "optimizer"}
    assert sum(parts.values()) == pytest.approx(1)


def test_every_network_is_stepped_at_its_own_cadence(two: dict[str, Report]) -> None:
    assert two["policy"]["applied"] == {"policy": 20, "recogniser": 10}
    assert two["policy"]["head_steps"] == 10


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_overflow_skips_network_head_and_schedule(two: dict[str, Report], stage: int) -> None:
    report = two[f"fp16_z{stage}"]
    applied, skipped = report["applied"]["backbone"], report["skipped"]["backbone"]
    assert skipped > 3
    assert applied + skipped == 24
    assert report["head_steps"] == report["clock"] == applied
    scales = [m["loss_scale"] for m in report["metrics"]]
    assert min(scales) < 2.0**20 / 8
    assert any(after > before for before, after in itertools.pairwise(scales)), "the scale never recovers"
    # while every step is dropped the warm-up stands still, and so does the loss of equal batches
    first = [m for m in report["metrics"] if m["applied"] == 0]
    assert len({m["backbone/lr"] for m in first}) == 1
    assert losses(report) == pytest.approx(losses(two["fp16_z0"]), rel=1e-3)
    assert losses(report)[-1] < losses(report)[0]


def test_the_smallest_loss_scale_ends_the_run(one: dict[str, Report]) -> None:
    assert "loss scale" in one["floor"]["error"]


def untimed(metrics: list[Report]) -> list[Report]:
    """Lines of metrics.jsonl without what a clock measured."""
    return [{k: v for k, v in m.items() if k != "images_per_second" and not k.startswith("share/")} for m in metrics]


@pytest.mark.parametrize("name", ["long", "long_z2", "long_z3", "long_policy", "long_mae", "long_fp16", "ordered"])
def test_a_stopped_run_goes_on_bit_for_bit(two: dict[str, Report], name: str) -> None:
    whole, stopped = two[name], two[f"{name}_stopped"]
    assert untimed(stopped["metrics"]) == untimed(whole["metrics"])
    assert stopped["weights"] == whole["weights"]


@pytest.mark.parametrize("name", ["half", "half_z2"])
def test_head_and_network_go_on_with_another_number_of_ranks(
    one: dict[str, Report], two: dict[str, Report], name: str
) -> None:
    went_on = losses(one[name])
    assert went_on[:4] == losses(two[name])[:4]
    assert went_on == pytest.approx(losses(one["arcface"])[:8], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("half_unconverted", ["facex convert", "--world-size 1"]),
        ("other_classes", ["7 classes", "has 5"]),
        ("other_network", ["another architecture", "IResNet", "TinyNet"]),
        ("other_method", ["another architecture"]),
        ("other_batch", ["global_batch", "32", "16"]),
        ("other_order", ["its order is facex", "distributed_sampler"]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(one: dict[str, Report], name: str, words: list[str]) -> None:
    assert "CheckpointError" in one[name]["error"]
    for word in words:
        assert word in one[name]["error"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_in_words(one: dict[str, Report], name: str) -> None:
    assert REFUSED[name][1] in one[name]["error"]
    assert one[name]["error"].startswith(("ConfigError", "TrainingError"))


def test_frozen_parameters_wait_for_their_step(one: dict[str, Report]) -> None:
    still, moved = one["frozen_3"]["stem"], one["frozen_4"]["stem"]
    assert still == one["frozen_1"]["stem"]
    assert moved != still


def test_recomputed_activations_change_nothing(one: dict[str, Report]) -> None:
    assert losses(one["iresnet_recomputed"]) == pytest.approx(losses(one["iresnet_arcface"]), rel=1e-5)


def test_evaluation_leaves_training_as_it_was(two: dict[str, Report], folder: Path) -> None:
    lines = two["evaluated"]["metrics"]
    seen = [m for m in lines if "eval/tiny/accuracy" in m]
    assert [m["step"] for m in seen] == [7, 8]
    assert all(0 <= m["eval/tiny/accuracy"] <= 1 for m in seen)
    assert [m["backbone/loss"] for m in lines if "backbone/loss" in m] == losses(two["long"])
    assert two["evaluated"]["weights"] == two["long"]["weights"]
    assert open_checkpoint(folder / "two" / "evaluated", "best").meta["score"] is not None


def test_a_failed_evaluation_loses_no_training_and_is_made_up_for(one: dict[str, Report], folder: Path) -> None:
    assert "cannot be embedded" in one["unevaluated"]["error"]
    run = folder / "one" / "unevaluated"
    assert open_checkpoint(run).meta["batches"] == 6
    healthy = scenario("unevaluated", "TinyRecogniser", evaluation={"every": 100}, trainer={"steps": 6}, keep=True)
    report = run_scenarios([healthy], folder / "one", 1)["unevaluated"]
    assert "error" not in report
    assert "tiny" in json.loads((run / "results.json").read_text())["evaluations"]["6"]


def test_a_nan_loss_ends_every_rank_and_names_the_samples(two: dict[str, Report], folder: Path) -> None:
    message = two["nan"]["error"]
    for word in ("TrainingError", "backbone", "step 4", "rank 1", "nonfinite_step_4.json"):
        assert word in message
    saved = json.loads((folder / "two" / "nan" / "nonfinite_step_4.json").read_text())
    assert {b["rank"] for b in saved["micro_batches"]} == {1}
    assert all(len(b["samples"]) == 8 for b in saved["micro_batches"])
