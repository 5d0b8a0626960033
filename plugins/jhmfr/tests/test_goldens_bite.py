"""Every golden kind of JHMFR passes, and fails when one constant of the product changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from facex_jhmfr import (
    block,
    facet,
    finetune,
    formats,
    golden_kinds,
    groups,
    handover,
    mae,
    masked_copies,
    npair,
    pairs,
    patches,
    prompts_pool,
    protocol,
)

from facex.data import masking_fma
from facex.data.masking_fma import landmarks, texture
from facex.eval import verification
from facex.heads import adaptive, angular, magnitude, margin_head
from facex.heads.shard_optimizer import ShardOptimizer
from facex.train import schedules
from tests.golden.case import Case, Expected
from tests.golden.discover import find_cases
from tests.golden.harness import run_case
from tests.golden.kinds import jhmfr_heads, jhmfr_masks

GOLDENS = Path(__file__).parents[3] / "tests" / "golden" / "jhmfr"
RUNNERS = golden_kinds.KINDS | jhmfr_heads.KINDS | jhmfr_masks.KINDS
Patch = Callable[[pytest.MonkeyPatch], None]


def alpha(patch: pytest.MonkeyPatch) -> None:
    from facex_jhmfr import golden_networks

    for module in (golden_networks, facet):
        patch.setattr(module, "residual_scale", lambda residual, depth: (2.01 * depth) ** 0.25)


def pool_scale(patch: pytest.MonkeyPatch) -> None:
    original = prompts_pool.attend
    patch.setattr(prompts_pool, "attend", lambda *a, scale, **k: original(*a, scale=scale * 1.1, **k))


def channel_first(patch: pytest.MonkeyPatch) -> None:
    original = patches.patchify

    def changed(images: torch.Tensor, patch: int) -> torch.Tensor:
        return original(images, patch).unflatten(2, (-1, 3)).transpose(2, 3).flatten(2)

    for module in (patches, golden_kinds.golden_networks):
        patch.setattr(module, "patchify", changed)


def temperature(patch: pytest.MonkeyPatch) -> None:
    original = patches.sincos_positions
    changed = lambda grid, dim, temperature=1e4: original(grid, dim, temperature * 1.01)  # noqa: E731
    patch.setattr(golden_kinds.golden_networks, "sincos_positions", changed)


def flags_swapped(patch: pytest.MonkeyPatch) -> None:
    original = facet.FaceT.read_flags
    patch.setattr(facet.FaceT, "read_flags", lambda self, flags, x: 1 - original(self, flags, x))


def keep_less(patch: pytest.MonkeyPatch) -> None:
    original = block.Block._dropped
    patch.setattr(block.Block, "_dropped", lambda self, branch, u, row: original(self, branch * 1.01, u, row))


def visible_first(patch: pytest.MonkeyPatch) -> None:
    original = mae.MaskedAutoencoder._target
    patch.setattr(mae.MaskedAutoencoder, "_target", lambda self, patches: original(self, patches) * 1.01)


def unpasted(patch: pytest.MonkeyPatch) -> None:
    original = mae.unpatchify
    patch.setattr(mae, "unpatchify", lambda patches, patch, grid: original(patches * 1.01, patch, grid))


def gain(patch: pytest.MonkeyPatch) -> None:
    original = facet.initial_gain
    patch.setattr(facet, "initial_gain", lambda residual, depth: original(residual, depth) * 1.1)


def no_encoder(patch: pytest.MonkeyPatch) -> None:
    for module in (formats, handover):
        original = formats.encoder_of
        patch.setattr(module, "encoder_of", lambda state, o=original: {k: v * 1.01 for k, v in o(state).items()})


def layers(patch: pytest.MonkeyPatch) -> None:
    original = groups.layer_of
    patch.setattr(groups, "layer_of", lambda name, depth: max(original(name, depth) - 1, 0))


def late_peak(patch: pytest.MonkeyPatch) -> None:
    original = schedules.Warmup
    patch.setattr(schedules, "Warmup", lambda *a: original(*a[:3]))


def scaled(cls: type, factor: float = 1.001) -> Patch:
    def change(patch: pytest.MonkeyPatch) -> None:
        original = cls.target  # type: ignore[attr-defined]
        patch.setattr(cls, "target", lambda self, *a: original(self, *a) * factor)

    return change


def npair_scale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(npair, "sine", lambda cos: (1 - cos * cos).clamp(min=1e-12).sqrt() * 1.01)


def counted_steps(patch: pytest.MonkeyPatch) -> None:
    original = ShardOptimizer.__init__

    def changed(self: ShardOptimizer, weight: object, bias: object, options: object, *rest: object) -> None:
        options.bias_correction = "step"  # type: ignore[attr-defined]
        original(self, weight, bias, options, *rest)  # type: ignore[arg-type]

    patch.setattr(ShardOptimizer, "__init__", changed)


def uncapped(patch: pytest.MonkeyPatch) -> None:
    original = margin_head.MarginHead.__init__
    patch.setattr(
        margin_head.MarginHead, "__init__", lambda self, *a, **k: original(self, *a, **{**k, "loss_cap": None})
    )


def thresholds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verification, "ACCURACY_THRESHOLDS", np.arange(0, 4, 0.02).repeat(2))


def rounded(patch: pytest.MonkeyPatch) -> None:
    original = protocol.flip_8bit
    for module in (protocol, golden_kinds.golden_evaluation):
        patch.setattr(module, "flip_8bit", lambda x: original(x + 1 / 255))


def norm_128(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(protocol, "EVAL_NORM", (127.5, 127.5))


def doubled_view(patch: pytest.MonkeyPatch) -> None:
    original = finetune.JHMFR._view

    def changed(images: torch.Tensor, *rest: object) -> object:
        return original(images * 1.01, *rest)  # type: ignore[arg-type]

    patch.setattr(finetune.JHMFR, "_view", staticmethod(changed))


def long_folds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pairs, "FOLD_HALF", 600)


def always_masked(patch: pytest.MonkeyPatch) -> None:
    original = masked_copies.MaskedCopies.__init__

    def changed(self: masked_copies.MaskedCopies, *a: object, **k: object) -> None:
        original(self, *a, **k)  # type: ignore[arg-type]
        self.masked_faces = 0.9

    patch.setattr(masked_copies.MaskedCopies, "__init__", changed)


def farther(patch: pytest.MonkeyPatch) -> None:
    original = masking_fma.render_mesh
    patch.setattr(jhmfr_masks, "render_mesh", lambda v, *a: original(v * [[1], [1], [-1]], *a))


def brighter(patch: pytest.MonkeyPatch) -> None:
    original = texture.masked_texture
    patch.setattr(jhmfr_masks, "masked_texture", lambda t, m, a, r: original(t, m, a * 0.99, r))


def other_point(patch: pytest.MonkeyPatch) -> None:
    changed = (*landmarks.MAP_106_TO_68[:10], (17, 18), *landmarks.MAP_106_TO_68[11:])
    patch.setattr(landmarks, "MAP_106_TO_68", changed)


# kind: (case, change); several cases of a kind where its parts are independent
CASES: list[tuple[str, Patch]] = [
    ("block_deepnorm", alpha),
    ("block_deepnorm_droppath", keep_less),
    ("prompts_pool", pool_scale),
    ("patch_embed", channel_first),
    ("sincos_14x14_516", temperature),
    ("vit_tiny_deepnorm_eval", flags_swapped),
    ("vit_tiny_deepnorm_train", keep_less),
    ("mae_tiny_deepnorm", visible_first),
    ("mae_vis", unpasted),
    ("init_facet_base", gain),
    ("ckpt_mae_to_facet", no_encoder),
    ("groups_facet_finetune", layers),
    ("sched", late_peak),
    ("loss_arcface", scaled(angular.ArcFace)),
    ("loss_curricularface", scaled(adaptive.CurricularFace)),
    ("loss_magface", scaled(magnitude.MagFace)),
    ("loss_npair", npair_scale),
    ("pfc_adamw_arcface_ws1", counted_steps),
    ("dist_ce_ws1", uncapped),
    ("train_tiny_arcface", counted_steps),
    ("train_mae_tiny", late_peak),
    ("eval_kfold5", thresholds),
    ("eval_hflip_batch", rounded),
    ("eval_run_evaluate_tta", rounded),
    ("eval_run_test_mask1", norm_128),
    ("pair_parsers", long_folds),
    ("data_masked_folder", always_masked),
    ("fma_render", farther),
    ("fma_texture", brighter),
    ("fma_106_to_68", other_point),
]


@pytest.fixture(scope="module")
def goldens() -> dict[str, tuple[Case, Expected]]:
    """Every case by name."""
    return {case.name: (case, expected) for case, expected in find_cases(GOLDENS, {"jhmfr"}) if expected is not None}


def outcome(golden: tuple[Case, Expected]) -> tuple[bool, str]:
    case, expected = golden
    return run_case(case, expected, RUNNERS[case.key])


def test_every_kind_has_a_change(goldens: dict[str, tuple[Case, Expected]]) -> None:
    assert {goldens[name][0].key for name, _ in CASES} == {case.key for case, _ in goldens.values()} == set(RUNNERS)


@pytest.mark.parametrize(("name", "change"), CASES, ids=[name for name, _ in CASES])
def test_a_changed_constant_fails(
    name: str, change: Patch, goldens: dict[str, tuple[Case, Expected]], monkeypatch: pytest.MonkeyPatch
) -> None:
    passed, line = outcome(goldens[name])
    assert passed, line
    change(monkeypatch)
    passed, line = outcome(goldens[name])
    assert not passed, line
