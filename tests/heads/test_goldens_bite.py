"""Every golden kind of the heads passes, and fails when one constant of the product changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex.heads import adaptive, angular, margin_head
from facex.heads.adaptive import AdaFace, CurricularFace
from facex.heads.base import sine
from facex.heads.magnitude import MagFace
from tests.golden.case import Case, Expected
from tests.golden.discover import find_cases
from tests.golden.harness import run_case
from tests.golden.kinds import losses, magface_parallel, pfc

GOLDENS = Path(__file__).parents[1] / "golden" / "magface"
RUNNERS = losses.KINDS | pfc.KINDS | magface_parallel.KINDS
Patch = Callable[[pytest.MonkeyPatch], None]


def steeper(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        MagFace, "slope", property(lambda self: 1.02 * (self.u_margin - self.l_margin) / (self.u_a - self.l_a))
    )


def stronger(patch: pytest.MonkeyPatch) -> None:
    original = AdaFace.strength
    patch.setattr(AdaFace, "strength", lambda self, norm: original(self, norm) * 1.02)


def bent(patch: pytest.MonkeyPatch) -> None:
    for module in (angular, adaptive):
        patch.setattr(module, "sine", lambda cos, official_nan=False: sine(cos, official_nan) * 1.01)


def smaller_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(angular, "_safe_acos", lambda cos: cos.acos() + 0.001)


def forgetful(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CurricularFace, "observe", lambda self, statistics, reduce: None)


def cheaper(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(margin_head, "LOSS_CAP", 69.0)


CASES: dict[str, tuple[str, Patch]] = {
    "loss_magface": ("loss_magface_default", steeper),
    "loss_insightface_margins": ("loss_insightface_margins", bent),
    "loss_adaface": ("loss_adaface", stronger),
    "loss_adaface_heads": ("loss_adaface_heads", smaller_clip),
    "loss_adaface_pfc": ("loss_adaface_pfc", stronger),
    "loss_curricularface": ("loss_curricularface", forgetful),
    "loss_facexzoo_heads": ("loss_facexzoo_heads", bent),
    "loss_jhmfr_heads": ("loss_jhmfr_heads", bent),
    "pfc": ("pfc_w1_ignored_labels", cheaper),
    "pfc_adaface": ("pfc_w2_adaface_rate1.0", stronger),
    "magface_parallel": ("magface_parallel_w1_arc", steeper),
}


def golden(name: str) -> tuple[Case, Expected]:
    for case, expected in find_cases(GOLDENS, {"magface"}):
        if case.name == name and expected is not None:
            return case, expected
    pytest.fail(f"no golden case {name}")


def on_one_rank(case: Case, expected: Expected) -> tuple[Case, Expected]:
    """A case of several ranks run as one: what is global must be the same."""
    names = {"loss_rank0", "batch_mean_rank0", "batch_std_rank0"} & set(expected.specs)
    specs: dict[str, dict[str, Any]] = {name: expected.specs[name] for name in names}
    return dataclasses.replace(case, params={**case.params, "world_size": 1}), Expected(specs, expected.arrays)


def test_every_kind_is_here() -> None:
    assert {f"magface/{kind}" for kind in CASES} == set(RUNNERS)


@pytest.mark.parametrize("kind", list(CASES))
def test_a_changed_constant_fails(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, patch = CASES[kind]
    case, expected = golden(name)
    if case.params.get("world_size", 1) > 1:
        case, expected = on_one_rank(case, expected)
    runner = RUNNERS[f"magface/{kind}"]
    passed, line = run_case(case, expected, runner)
    assert passed, line
    patch(monkeypatch)
    passed, line = run_case(case, expected, runner)
    assert not passed
    assert "expected" in line  # a wrong number, not an exception
