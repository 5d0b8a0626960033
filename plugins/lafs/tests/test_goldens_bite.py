"""Every golden kind fails when one thing of the product is changed: here is what, and the case that notices."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facex_lafs import finetune, landmark_cnn, landmark_views, pretrain, recipe, standard, transformer, views
from facex_lafs.dino import Teacher
from facex_lafs.golden_kinds import KINDS
from facex_lafs.goldens import finetune as finetune_kinds
from facex_lafs.goldens import models as model_kinds
from facex_lafs.networks import FViT
from facex_lafs.pictures import blur, color, tensor_color
from torch import nn

from facex.data import writer
from facex.eval import folds, templates, verification
from facex.heads.margins import CosFace
from tests.golden.discover import find_cases
from tests.golden.harness import run_case

FOLDER = Path(__file__).parents[3] / "tests" / "golden" / "lafs"
CASES = {case.name: (case, expected) for case, expected in find_cases(FOLDER, {"lafs"})}


GELU = nn.GELU


def tanh_gelu() -> nn.Module:
    return GELU(approximate="tanh")


def detached(raw: torch.Tensor, most: float = 111.0) -> torch.Tensor:
    low, high = raw.amin(1, keepdim=True).detach(), raw.amax(1, keepdim=True).detach()
    return ((raw - low) / (high - low) * most).view(len(raw), -1, 2)


def unmixed(x: torch.Tensor, labels: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, ...]:
    shares = torch.stack([lam, 1 - lam]).expand(len(labels), 2)
    return x * lam + x * (1 - lam), torch.stack([labels, labels.flip(0)], 1), shares


def shifted(function: Callable[..., Any], by: float) -> Callable[..., Any]:
    return lambda images, landmarks, *rest, **more: function(images, landmarks + by, *rest, **more)


def no_flip(embeddings: np.ndarray, flipped: Any = None, scores: Any = None, *, keep_norm: bool = True) -> np.ndarray:
    return np.asarray(embeddings, np.float64) * np.asarray(scores)[:, None]


BLOCKS = (*landmark_cnn.BLOCKS[:9], (*landmark_cnn.BLOCKS[9][:4], False, 1), *landmark_cnn.BLOCKS[10:])
# case: (object, attribute, what it becomes)
CHANGES: dict[str, tuple[Any, str, Any]] = {
    "landmark_cnn_eval": (landmark_cnn, "BLOCKS", BLOCKS),
    "landmark_cnn_train": (landmark_views, "normalise_landmarks", detached),
    "patch_sampling_36": (model_kinds, "sample_patches", shifted(model_kinds.sample_patches, 0.5)),
    "part_fvit_eval": (FViT, "_places", lambda self, rows, positions: self.pos_embedding[:, :rows].flip(1)),
    "part_fvit_small_train": (transformer.nn, "GELU", tanh_gelu),
    "part_fvit_small_train_drop": (
        model_kinds.StoredMask,
        "forward",
        lambda self, x: x if self.mask is None else x * self.mask,
    ),
    "standard_coord": (standard, "NOISE_SIGMA", 5.0),
    "landmark_views_global": (landmark_views.Sampling, "perturbed", lambda self, landmarks, noise: landmarks),
    "landmark_views_local": (landmark_views.Sampling, "drawn", lambda self, landmarks, index: landmarks[:, :36]),
    "cosface_soft": (finetune_kinds, "cosface", lambda s, m: CosFace(s, m)),
    "cosface_hard": (finetune_kinds, "cosface", lambda s, m: CosFace(s, 0.35, soft=True)),
    "dino_head": (nn, "GELU", nn.ReLU),
    "dino_loss": (Teacher, "recentre", lambda self, mean, momentum: self.center.copy_(mean)),
    "ssl_schedules": (pretrain, "teacher_temperature", lambda epoch, warm, final, epochs: final),
    "ssl_step": (Teacher, "follow", lambda self, student, momentum: None),
    "finetune_lr": (recipe, "MIN_LR", 0.0),
    "finetune_step": (finetune_kinds, "mix", unmixed),
    "param_groups": (finetune.LAFS, "_decay_of", lambda self, name, parameter: 0.1),
    "mixup": (finetune_kinds, "mix", unmixed),
    "landmark_regularization": (
        finetune.LandmarkRegulariser,
        "weight",
        lambda self, epoch: next((w for a, b, w in self.weights if a <= epoch < b), 0.0),
    ),
    "need_save": (recipe.BestRule, "kept", lambda self, rows: [row[0] > self.always_above for row in rows]),
    "lafs_views": (blur, "PASSES", 2),
    "rand_augment_m2": (color, "_GREY", (21845, 21845, 21846)),
    "train_pipeline_ms1m": (tensor_color, "_GREY", (1 / 3, 1 / 3, 1 / 3)),
    "train_pipeline_webface": (tensor_color, "_GREY", (0.114, 0.587, 0.2989)),
    "verification_10fold": (verification, "ACCURACY_THRESHOLDS", folds.ACCURACY_THRESHOLDS + 0.005),
    "ijb_template": (templates, "image_features", no_flip),
    "rec_webface": (writer, "MAGIC", b"\x0a\x23\xd7\xcf"),
    "rec_ms1m_layout": (writer, "MAGIC", b"\x0a\x23\xd7\xcf"),
}
UNCHANGED = {"fvit_eval", "patch_sampling_196"}  # other cases of kinds that are here


def test_every_kind_is_changed_once() -> None:
    assert {case.key for case, _ in CASES.values()} == set(KINDS)
    assert {CASES[name][0].kind for name in CHANGES} == {case.kind for case, _ in CASES.values()}
    assert set(CHANGES) | UNCHANGED == set(CASES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, expected = CASES[name]
    target, attribute, value = CHANGES[name]
    assert hasattr(target, attribute)
    monkeypatch.setattr(target, attribute, value)
    ok, line = run_case(case, expected, KINDS[case.key])
    assert not ok, f"{name} passes with another {attribute}: {line}"
    assert "Error" not in line.split(":")[0], f"{name} does not run any more: {line}"


@pytest.mark.parametrize("name", ["landmark_cnn_train", "part_fvit_small_train_drop", "ssl_step", "finetune_lr"])
def test_the_cases_pass_as_they_are(name: str) -> None:
    case, expected = CASES[name]
    ok, line = run_case(case, expected, KINDS[case.key])
    assert ok, line


def test_views_have_the_published_strengths() -> None:
    assert (views.JITTER, views.BLUR, math.isclose(views.RATIO[0] * views.RATIO[1], 1)) == (
        (0.4, 0.4, 0.2, 0.1),
        (0.1, 2.0),
        True,
    )


def compared(spec: dict[str, Any], got: Any, ref: np.ndarray, **arrays: np.ndarray) -> tuple[float, str | None]:
    from tests.golden.case import Expected, Variant
    from tests.golden.comparisons import comparison_of

    expected = Expected({"x": {"is": "", "tol": 1e-4, **spec}}, {"x": ref, **arrays})
    return comparison_of("lafs")("x", Variant({"x": got}), expected)


def test_the_comparison_is_strict() -> None:
    ref, names = np.arange(6, dtype=np.float32).reshape(3, 2), np.array(["a", "b", "c"])
    rows = {str(n): r for n, r in zip(names, ref, strict=True)}
    assert compared({"rows": "names"}, rows, ref, names=names) == (0.0, None)
    assert compared({"rows": "names"}, {**rows, "b": ref[1] + 1}, ref, names=names)[1]
    skip = {"rows": "names", "skip_rows": ["b"]}
    assert compared(skip, {**rows, "b": ref[1] + 1}, ref, names=names) == (0.0, None)
    assert "no row c" in str(compared({"rows": "names"}, {"a": ref[0], "b": ref[1]}, ref, names=names)[1])
    assert "does not have" in str(compared({"rows": "names"}, {**rows, "d": ref[0]}, ref, names=names)[1])
    assert "not implemented" in str(compared({"per_row": True}, ref, ref)[1])
    assert "shape" in str(compared({}, ref[:2], ref)[1])
    assert "not finite" in str(compared({}, ref * np.nan, ref)[1])
    assert compared({"tol": 0}, ref + 1e-3, ref)[1]
    assert compared({}, ref * (1 + 9e-5), ref)[1] is None
    assert compared({}, ref * (1 + 2e-4), ref)[1]


def test_a_fingerprint_has_its_21_numbers() -> None:
    from tests.golden.comparisons.lafs import fingerprint

    values = fingerprint(np.array([[3.0, -1.0], [2.0, 0.0]]))
    assert values[:5].tolist() == pytest.approx([1.0, np.sqrt(2.5), -1.0, 3.0, 1.5])
    assert values[5:13].tolist() == [3, -1, 2, 0, 0, 0, 0, 0]
    assert len(values) == 21
