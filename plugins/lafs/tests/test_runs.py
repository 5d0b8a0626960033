"""Whole runs: two ranks and one give the same losses, a stopped run goes on bit for bit, one stage feeds the next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from facex_lafs.finetune import LAFS

from facex.data.verification import write_bin
from facex.errors import CheckpointError, ConfigError, DataError, TrainingError
from facex.train.load_run import load_run

sys.path.insert(0, str(Path(__file__).parent))
from lafs_runs import PICTURES, QUIET, TINY, common, make_faces, train_here, train_on_two_ranks

Lines = list[dict[str, Any]]
PART = {**TINY, **QUIET, "landmark_width": 0.25, "coordinate_max": PICTURES - 1.0, "landmark_dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces, a verification set, and a stage-1 file."""
    root = tmp_path_factory.mktemp("lafs")
    faces = make_faces(root / "faces")
    pictures = [cv2.imread(str(p)) for p in sorted(faces.glob("*/*.png"))]
    encoded = [cv2.imencode(".png", p)[1].tobytes() for p in pictures]
    write_bin(
        root / "val.bin",
        [encoded[k] for i in range(20) for k in (i % 24, (i * 7) % 24)],
        [i % 2 == 0 for i in range(20)],
    )
    torch.manual_seed(3)
    method = LAFS(backbone_options={**PART, "input_size": PICTURES})
    centres = torch.randn(6, TINY["dim"])
    torch.save({**method.backbone.state_dict(), "loss.weight": centres}, root / "stage1.pth")
    return root


def pretraining(folder: Path, name: str, **more: Any) -> list[str]:
    """A small pre-training with every published ingredient."""
    settings = {
        "method__backbone_options": {**TINY, **QUIET},
        "method__views__local_views": 2,
        "method__landmarks__count": 16,
        "method__landmarks__sampled": 4,
        "method__landmarks__width": 0.25,
        "method__landmarks__coordinate_max": PICTURES - 1.0,
        "method__landmarks__noise_sigma": 1.0,
        "method__head__out_dim": 24,
        "method__head__hidden_dim": 16,
        "method__head__bottleneck_dim": 8,
        "method__freeze_last_layer": 0.5,
        "trainer__steps": 6,
        "trainer__clip__norm": 3.0,
        "trainer__clip__scope": "per_tensor",
        "schedule__kind": "cosine",
        "schedule__warmup_epochs": 1,
        "schedule__warmup_inclusive": True,
        "init_from": [{"path": str(folder / "stage1.pth"), "network": "landmarks"}],
    }
    return ["--method", "LAFSPretrain", *common(folder / "faces", folder / name, **{**settings, **more})]


def finetuning(folder: Path, name: str, **more: Any) -> list[str]:
    """A small fine-tuning with mixup and accumulation."""
    settings = {
        "method__backbone_options": PART,
        "method__mixup__prob": 0.6,
        "trainer__steps": 6,
        "schedule__kind": "gradual_cosine",
        "schedule__warmup_steps": 2,
    }
    return ["--method", "LAFS", *common(folder / "faces", folder / name, **{**settings, **more})]


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, Lines]:
    """Both methods on two ranks."""
    runs = {"pre2": pretraining(folder, "pre2"), "fine2": finetuning(folder, "fine2")}
    return dict(zip(runs, train_on_two_ranks(list(runs.values()), folder), strict=True))


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Lines:
    """Pre-training on one rank, whole."""
    return train_here(pretraining(folder, "pre1"))


def losses(lines: Lines, name: str) -> list[float]:
    return [m[name] for m in lines if name in m]


def test_pretraining_on_two_ranks_equals_one(two: dict[str, Lines], pretrained: Lines, folder: Path) -> None:
    assert len(pretrained) == 6
    assert losses(two["pre2"], "student/dino") == pytest.approx(losses(pretrained, "student/dino"), rel=1e-4)
    one, both = (load_run(folder / name).method for name in ("pre1", "pre2"))
    for part in ("student", "teacher"):  # the teacher's average and the centre included
        mine, theirs = getattr(one, part).state_dict(), getattr(both, part).state_dict()
        for key, value in mine.items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-4, atol=2e-5, msg=f"{part}.{key}")
    assert one.teacher.center.abs().max() > 0


def test_a_global_batch_is_a_global_batch(pretrained: Lines, folder: Path) -> None:
    whole = train_here(pretraining(folder, "pre_whole", trainer__micro_batch=8))
    assert losses(whole, "student/dino") == pytest.approx(losses(pretrained, "student/dino"), rel=1e-4)


def test_finetuning_on_two_ranks_equals_one_with_accumulation(two: dict[str, Lines], folder: Path) -> None:
    one = train_here(finetuning(folder, "fine1"))
    assert losses(two["fine2"], "backbone/loss") == pytest.approx(losses(one, "backbone/loss"), rel=1e-4)


@pytest.mark.parametrize("kind", ["pretraining", "finetuning"])
def test_a_stopped_run_goes_on_bit_for_bit(kind: str, folder: Path) -> None:
    loud = {**TINY, "dropout": 0.2, "drop_path": 0.2}
    make, options = (pretraining, loud) if kind == "pretraining" else (finetuning, {**PART, **loud})
    more: dict[str, Any] = {"method__backbone_options": options}
    if kind == "finetuning":  # the frozen landmark network goes on as well
        more |= {"method__regulariser__weights": [[0, 9, 10.0]], "init_from": [{"path": str(folder / "stage1.pth")}]}
    whole = train_here(make(folder, f"{kind}_whole", **more))
    stopped = train_here(make(folder, f"{kind}_stopped", **more), stops=(2, 3))
    assert stopped == whole
    states = [load_run(folder / f"{kind}_{name}").method.state_dict() for name in ("whole", "stopped")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_prototypes_wait_and_weight_decay_rises(pretrained: Lines, folder: Path) -> None:
    early, late = (load_run(folder / "pre1", which).method.student.state_dict() for which in (3, 6))
    assert losses(pretrained, "student/lr")[:3] == pytest.approx([0.0, 1e-3, 2e-3])  # the warm-up reaches its end
    decays = losses(pretrained, "student/weight_decay")
    assert decays[0] == pytest.approx(0.04)
    assert decays == sorted(decays)
    assert not torch.equal(early["head.last_layer.weight_v"], late["head.last_layer.weight_v"])
    assert torch.equal(late["head.last_layer.weight_g"], torch.ones(24, 1))


def test_prototypes_stay_in_their_frozen_epochs(folder: Path) -> None:
    train_here(
        pretraining(folder, "frozen", trainer__steps=3, trainer__checkpoint_every=1, method__freeze_last_layer=1)
    )
    first, third = (load_run(folder / "frozen", which).method.student.state_dict() for which in (1, 3))
    assert torch.equal(first["head.last_layer.weight_v"], third["head.last_layer.weight_v"])
    assert not torch.equal(first["backbone.cls_token"], third["backbone.cls_token"])


def test_a_run_of_pretraining_starts_finetuning(pretrained: Lines, folder: Path) -> None:
    source = [{"path": str(folder / "pre1")}]
    lines = train_here(finetuning(folder, "started", init_from=source, trainer__steps=1))
    assert np.isfinite(lines[-1]["backbone/loss"])
    pre, fine = load_run(folder / "pre1").method, LAFS(backbone_options={**PART, "input_size": PICTURES})
    from facex.methods import Source

    fine.init_from([Source(folder / "pre1")])
    own = fine.backbone.state_dict()
    for key, value in pre.teacher.backbone.state_dict().items():
        assert torch.equal(own[key], value), key
    for key, value in pre.landmark_network.state_dict().items():
        assert torch.equal(own[key], value), key
    fine.init_from([Source(folder / "pre1", "transformer", "lafs-ssl-student")])
    assert torch.equal(fine.backbone.cls_token, pre.student.backbone.cls_token)


def test_the_teacher_is_probed(folder: Path) -> None:
    probe = {"method__probe__knn_data": str(folder / "faces"), "method__probe__knn_every": 2}
    bins = {"evaluation__bins": [str(folder / "val.bin")], "evaluation__every": 3}
    lines = train_here(pretraining(folder, "probed", **probe, **bins))
    assert [m["eval/val/accuracy"] for m in lines if "eval/val/accuracy" in m]
    accuracies = losses(lines, "student/knn_accuracy")
    assert accuracies[:2] == [-1.0, -1.0]  # not measured yet
    assert all(0 <= a <= 1 for a in accuracies[2:])
    plain = train_here(pretraining(folder, "unprobed"))
    assert losses(lines, "student/dino") == losses(plain, "student/dino")  # a probe changes nothing


def test_dino_face_needs_no_landmarks(folder: Path) -> None:
    more = {"method__recipe": "dino", "method__views__local_size": 16, "init_from": "[]"}
    lines = train_here(pretraining(folder, "dino", **more, trainer__steps=2))
    assert np.isfinite(losses(lines, "student/dino")).all()
    with pytest.raises(CheckpointError, match="no landmark network"):
        train_here(pretraining(folder, "dino_bad", method__recipe="dino", method__views__local_size=16))


def test_landmarks_are_regularised_and_layers_have_their_rates(folder: Path) -> None:
    more = {"method__regulariser__weights": [[0, 9, 100.0]], "method__decay__layer": 0.5, "trainer__steps": 3}
    lines = train_here(finetuning(folder, "regularised", **more, init_from=[{"path": str(folder / "stage1.pth")}]))
    weights = losses(lines, "backbone/landmarks")
    assert len(weights) == 3
    assert min(weights) > 0


def test_the_published_rule_chooses_checkpoints(folder: Path) -> None:
    rule = {"class_path": "facex_lafs.BestRule", "init_args": {"always_above": 2.0, "near_above": 2.0}}
    more: dict[str, Any] = {"evaluation__bins": [str(folder / "val.bin")], "evaluation__every": 1}
    more |= {"evaluation__selection": rule, "trainer__checkpoint_every": 100, "trainer__keep_last": 0}
    lines = train_here(finetuning(folder, "chosen", **more))
    stopped = train_here(finetuning(folder, "chosen_stopped", **more), stops=(3,))
    accuracies = losses(lines, "eval/val/accuracy")
    assert losses(stopped, "eval/val/accuracy") == accuracies
    better = [k + 1 for k, a in enumerate(accuracies) if a > max([0.0, *accuracies[:k]])]
    for name, also in (("chosen", {6}), ("chosen_stopped", {3, 6})):  # the end, and where it stopped
        found = {int(path.name.removeprefix("step_")) for path in (folder / name / "checkpoints").glob("step_*")}
        assert found == {*better, *also}
        assert load_run(folder / name, "best").meta["score"] == max(accuracies)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"init_from": "[]"}, ConfigError, "landmark network has no trained weights"),
        ({"method__landmarks__count": 25}, ConfigError, "25 tokens, the network 16 positions"),
        ({"method__landmarks__sampled": 17}, ConfigError, "landmarks.sampled=17"),
        ({"method__backbone_options": {**TINY, "num_patches": 15}}, ConfigError, "no square number"),
        ({"method__teacher__temp": 0.0}, ConfigError, "temperatures are positive"),
        ({"method__probe__knn_data": "nowhere"}, DataError, "nowhere: no such file"),
    ],
)
def test_pretraining_refuses_in_words(more: dict[str, Any], error: type[Exception], message: str, folder: Path) -> None:
    with pytest.raises(error, match=message):
        train_here(pretraining(folder, f"refused{abs(hash(str(more)))}", **more))


def test_a_loss_that_is_not_finite_ends_the_run(folder: Path) -> None:
    state = torch.load(folder / "stage1.pth", weights_only=True)
    state["output_layer.1.bias"][3] = float("nan")
    torch.save(state, folder / "nan.pth")
    with pytest.raises(TrainingError, match=r"the loss of network 'student' is nan at step 1 .*samples"):
        train_here(pretraining(folder, "nan", init_from=[{"path": str(folder / "nan.pth"), "network": "landmarks"}]))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_both_methods_train_in_16_bits(precision: str, folder: Path) -> None:
    more = {"trainer__precision": precision, "trainer__steps": 2, "trainer__fp16_initial_scale": 64.0}
    pre = train_here(pretraining(folder, f"pre_{precision}", **more))
    fine = train_here(finetuning(folder, f"fine_{precision}", **more))
    plain = train_here(pretraining(folder, f"pre_plain_{precision}", trainer__steps=2))
    assert losses(pre, "student/dino") == pytest.approx(losses(plain, "student/dino"), rel=0.1)
    assert np.isfinite(losses(fine, "backbone/loss")).all()
    assert fine[-1]["applied"] == 2
