"""Every golden kind of networks, heads, data and evaluation passes, and fails when one constant of the product changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from facex_sarface import golden_data, golden_inputs, golden_networks, regions, swiftformer_blocks
from facex_sarface.policy_network import BasicBlock
from torch.nn import functional

from facex.data import augment
from facex.eval import fusion, identification, templates
from facex.eval import verification as pairs
from facex.heads import adaptive, angular
from facex.inference import align
from facex.models import ir
from plugins.sarface.tests.golden_bites import Change, Goldens

RUNNERS = {**golden_networks.KINDS, **golden_data.KINDS}
GOLDENS = Goldens(RUNNERS)


def scaled(owner: Any, name: str, factor: float = 1.003) -> Change:
    """A function or method whose result is a little larger."""

    def change(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *a, **k: original(*a, **k) * factor)

    return change


def other(owner: Any, name: str, value: Any) -> Change:
    """Another constant."""
    return lambda patch: patch.setattr(owner, name, value)


def attention_over_pixels(patch: pytest.MonkeyPatch) -> None:
    original = functional.normalize
    patch.setattr(functional, "normalize", lambda x, **k: original(x, **k) * (1.003 if k.get("dim") == 1 else 1))


def corners_aligned(patch: pytest.MonkeyPatch) -> None:
    original = functional.interpolate
    patch.setattr(functional, "interpolate", lambda x, size, **k: original(x, size, **{**k, "align_corners": True}))


def rounded_centre(patch: pytest.MonkeyPatch) -> None:
    original = regions.centers
    patch.setattr(regions, "centers", lambda *a: tuple(c + 1 for c in original(*a)))


def centre_of_the_nose(patch: pytest.MonkeyPatch) -> None:
    schemes = {**regions.SCHEMES, "legacy23": replace(regions.SCHEMES["legacy23"], center=(regions.SKIN,))}
    for module in (regions, golden_networks, golden_inputs):
        patch.setattr(module, "SCHEMES", schemes)


def shifted_pick(patch: pytest.MonkeyPatch) -> None:
    original = regions.nearest_index
    patch.setattr(regions, "nearest_index", lambda source, size: (original(source, size) + 1).clamp(max=source - 1))


def margin_moved(cls: type) -> Change:
    """Targets with a margin a thousandth larger."""

    def change(patch: pytest.MonkeyPatch) -> None:
        original = cls.target  # type: ignore[attr-defined]
        patch.setattr(cls, "target", lambda self, *a: original(self, *a) * 1.001)

    return change


def slower_average(patch: pytest.MonkeyPatch) -> None:
    original = adaptive.AdaFace.observe

    def changed(self: adaptive.AdaFace, *a: Any) -> None:
        self.t_alpha *= 0.9
        original(self, *a)

    patch.setattr(adaptive.AdaFace, "observe", changed)


def one_pixel_less(patch: pytest.MonkeyPatch) -> None:
    original = augment.crop_on_black
    patch.setattr(augment, "crop_on_black", lambda image, t, left, h, w: original(image, t, left, h - 1, w))


def smaller(patch: pytest.MonkeyPatch) -> None:
    original = augment.low_resolution
    patch.setattr(augment, "low_resolution", lambda image, ratio, *a: original(image, ratio * 0.97, *a))


def mean_medium(patch: pytest.MonkeyPatch) -> None:
    original = templates._pool
    patch.setattr(templates, "_pool", lambda *a, **k: original(*a, **{**k, "normalize_media": True}))


def one_place_on(patch: pytest.MonkeyPatch) -> None:
    original = identification.math.ceil
    patch.setattr(identification.math, "ceil", lambda v: original(v) + 1)


CASES: list[tuple[str, Change, str]] = [
    ("seg_eval", scaled(swiftformer_blocks.Mlp, "forward", 1.1), "logits_slice"),
    ("seg_eval", corners_aligned, "logits_slice"),
    ("seg_blocks_48", attention_over_pixels, "attn_eval_y"),
    ("seg_blocks_48", scaled(swiftformer_blocks.LocalRepresentation, "forward"), "encoder_eval_y"),
    ("split", rounded_centre, "face_region"),
    ("split", centre_of_the_nose, "face_legacy"),
    ("split", shifted_pick, "face_region112"),
    ("policy_eval", scaled(BasicBlock, "forward"), "feat32"),
    ("policy_train", scaled(golden_networks.PolicyNetwork, "embedded"), "bn1_mean"),
    ("net_ir18_eval", scaled(ir.IRBlock, "forward"), "block0"),
    ("net_ir18_train", scaled(ir.Subsample, "forward"), "emb"),
    ("head_cosface", margin_moved(angular.CosFace), "logits0"),
    ("head_arcface", margin_moved(angular.ArcFace), "logits0"),
    ("head_adaface", slower_average, "batch_mean0"),
    ("aug_crop", one_pixel_less, "out"),
    ("aug_lowres", smaller, "out"),
    ("aug_photo", other(augment, "_GREY_RGB", (19595, 38471, 7471 + 900)), "out"),
    ("align_ijb", scaled(align, "umeyama"), "matrix"),
    ("eval_pairs", other(pairs, "ACCURACY_THRESHOLDS", np.arange(0, 4, 0.02).repeat(2)), "tpr"),
    ("fuse_flip", scaled(fusion, "_lengths"), "fused_norm"),
    ("ijb", mean_medium, "template_feats"),
    ("ijb", one_place_on, "far_pr_th"),
]


def test_every_kind_has_a_change() -> None:
    told = GOLDENS.kinds([name for name, _, _ in CASES])
    # parser_train has no case: it is tested in test_golden_comparison
    assert told == GOLDENS.kinds(GOLDENS.found) == set(RUNNERS) - {"sarface/parser_train"}


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_it_passes(name: str) -> None:
    GOLDENS.passes(name)


@pytest.mark.parametrize(("name", "change", "output"), CASES, ids=[f"{n}-{o}" for n, _, o in CASES])
def test_it_fails_when_a_constant_changes(
    name: str, change: Change, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    GOLDENS.fails(name, output)
