"""Real trainings with the method's own network, narrow: two ranks and one, stop and resume, the branches one after another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from facex_msml.network import build_teacher

from facex.commands.convert import export_run
from facex.errors import DataError
from facex.methods.loading import read_state
from facex.train.load_run import load_run
from facex.train.parsing import parse
from facex.train.trainer import RunResult, train
from tests.ports import free_port, job_environment

ROOT = Path(__file__).resolve().parents[3]
SIDE, STEPS = 32, 6
CONFIG: dict[str, Any] = {
    "method": {
        "class_path": "MSML",
        "init_args": {
            "margin": {"class_path": "AMArcFace", "init_args": {"s": 16, "m": 0.3}},
            "embedding_size": 16,
            "lr_scales": {"osb": 0.5},
            "backbone_options": {"input_size": SIDE, "width": 0.125, "blocks": [1, 1, 1, 1], "osb_width": 0.125},
        },
    },
    "data": {
        "transforms": [
            {"class_path": "Occlude", "init_args": {"policy": {"rectangle": 0.3, "ellipse": 0.3, "polygon": 0.3}}},
            {"class_path": "HorizontalFlip"},
        ]
    },
    "trainer": {
        "global_batch": 16,
        "micro_batch": 8,
        "steps": STEPS,
        "precision": "fp32",
        "clip": {"norm": 5, "scope": "joint"},
        "log_every": 1,
    },
    "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.0005},
    "logging": {"tensorboard": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and 48 pictures of noise of six people."""
    root = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for person in range(6):
        (root / "faces" / f"p{person}").mkdir(parents=True)
        tone = rng.integers(0, 256, (SIDE, SIDE, 3))
        for i in range(8):
            noise = np.clip(tone + rng.integers(-40, 40, tone.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / "faces" / f"p{person}" / f"{i}.png"), noise)
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return root


def words(folder: Path, name: str, *more: str) -> list[str]:
    run = ["--trainer.output", str(folder / name), "--data.path", str(folder / "faces")]
    return ["--config", str(folder / "config.yaml"), *run, *more]


def run(folder: Path, name: str, *more: str) -> RunResult:
    parsed = parse(words(folder, name, *more))
    return train(parsed.config, parsed.resolved)


def metrics(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    timed = ("images_per_second", "share/")
    return [{k: v for k, v in m.items() if not k.startswith(timed)} for m in kept if "msml/loss" in m]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_run(folder / name).method.state_dict()


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[dict[str, Any]]:
    assert run(folder, "whole").steps == STEPS
    return metrics(folder, "whole")


def test_two_ranks_are_one_with_twice_the_accumulation(folder: Path, whole: list[dict[str, Any]]) -> None:
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    command = [*launcher, "--master_port", str(free_port()), "--module", "facex", "train", *words(folder, "two")]
    done = subprocess.run(
        command, cwd=ROOT, env=job_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    two = metrics(folder, "two")
    for name in ("msml/loss", "msml/segmentation", "msml/head"):
        assert [m[name] for m in two] == pytest.approx([m[name] for m in whole], rel=1e-4), name
    assert len({m["msml/segmentation"] for m in whole}) == STEPS
    ours, theirs = weights(folder, "two"), weights(folder, "whole")
    for key, value in theirs.items():
        if "running_" not in key and not key.endswith("num_batches_tracked"):  # each rank has its own
            torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-5, msg=key)


def test_a_stopped_run_goes_on_bit_for_bit(folder: Path, whole: list[dict[str, Any]]) -> None:
    run(folder, "stopped", "--trainer.max_steps", "2")
    run(folder, "stopped", "--trainer.resume", "auto")
    assert metrics(folder, "stopped") == whole
    ours, theirs = weights(folder, "stopped"), weights(folder, "whole")
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_the_segmentation_branch_first_then_the_rest(folder: Path) -> None:
    first = run(folder, "osb", "--method.parts", "osb", "--trainer.steps", "2")
    assert set(first.losses) >= {"msml/loss", "msml/segmentation", "msml/occlusion_iou"}
    assert not any("head" in name for name in first.losses)
    source = f"[{{path: {folder / 'osb'}, network: osb}}]"
    recognition = ["--method.parts", "recognition", "--trainer.steps", "2"]
    run(folder, "rest", *recognition, "--trainer.max_steps", "1", "--init_from", source)
    run(folder, "rest", *recognition, "--trainer.resume", "auto")  # the checkpoint has the branch
    before, after = weights(folder, "osb"), weights(folder, "rest")
    moved = {key.split(".")[1] for key, value in before.items() if not torch.equal(after[key], value)}
    assert moved == {"frb"}


def test_a_run_with_a_peer_goes_on_and_is_exported_with_it(folder: Path) -> None:
    teacher = build_teacher("iresnet18", 16, SIDE, 0.125, [1, 1, 1, 1]).state_dict()
    torch.save(teacher, folder / "peer.pth")
    keep = {"class_path": "facex_msml.preparation.KeepOriginal"}
    transforms = json.dumps([keep, *CONFIG["data"]["transforms"]])
    options = ["--method.peer", "{kd_weight: 1.0}", "--trainer.steps", "2", "--data.transforms", transforms]
    source = f"[{{path: {folder / 'peer.pth'}, network: peer}}]"
    run(folder, "peer", *options, "--trainer.max_steps", "1", "--init_from", source)
    assert run(folder, "peer", *options, "--trainer.resume", "auto").losses["msml/kd"] > 0
    export_run(folder / "peer", folder / "backbone.pth", "msml")
    written = read_state(folder / "backbone.pth")
    assert all(torch.equal(written[f"frb.peer.{key}"], value) for key, value in teacher.items())


def test_statistics_of_all_ranks_are_those_of_one_where_there_is_one(folder: Path, whole: list[dict[str, Any]]) -> None:
    run(folder, "global", "--method.statistics", "global", "--trainer.steps", "2")
    assert [m["msml/loss"] for m in metrics(folder, "global")] == pytest.approx([m["msml/loss"] for m in whole[:2]])


def test_training_without_masks_says_what_to_do(folder: Path) -> None:
    with pytest.raises(DataError, match=r"put a transform that occludes into data\.transforms"):
        run(folder, "bare", "--data.transforms", "[]")
