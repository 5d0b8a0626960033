"""A golden case of every kind of this plugin's networks passes, and fails when one constant of the product changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from facex_msml import consensus_loss, fm, golden_kinds, margins, peer
from facex_msml.decoder import Residual
from facex_msml.lightcnn import LightBlock
from facex_msml.osb import GlobalConvolution
from facex_msml.spherenet import SphereBlock

from facex.train import clipping
from tests.golden.case import Case, Expected
from tests.golden.discover import find_cases
from tests.golden.harness import run_case

GOLDENS = Path(__file__).parents[3] / "tests" / "golden" / "msml"
FOUND: dict[str, tuple[Case, Expected]] = {
    case.name: (case, expected) for case, expected in find_cases(GOLDENS, {"msml"}) if expected is not None
}


def outcome(name: str, steps: int | None = None) -> tuple[bool, str]:
    """Run a case, or only its first steps (then what comes after them is not compared)."""
    case, expected = FOUND[name]
    if steps is not None:
        params = {**case.params, "per_step": case.params["per_step"][:steps]}
        case = Case(case.family, case.kind, case.name, params, case.inputs)
        specs = {key: spec for key, spec in expected.specs.items() if spec.get("step", steps) < steps}
        expected = Expected(specs, expected.arrays)
    return run_case(case, expected, golden_kinds.KINDS[case.key])


def scaled(owner: Any, name: str, factor: float = 1.003) -> Callable[[pytest.MonkeyPatch], None]:
    """A function or method whose result is a little larger."""
    original = getattr(owner, name)
    return lambda patch: patch.setattr(owner, name, lambda *a, **k: original(*a, **k) * factor)


def other_default(cls: type, name: str, value: object) -> Callable[[pytest.MonkeyPatch], None]:
    """Instances of `cls` that have another value of an attribute."""
    original = cls.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        object.__setattr__(self, name, value)

    return lambda patch: patch.setattr(cls, "__init__", init)


def unclipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clipping, "_shrink", lambda parameters, norm, limit: None)


TRAIN = "msml_ires18_train"
CASES: list[tuple[str, int | None, Callable[[pytest.MonkeyPatch], None], str]] = [
    ("fm_sigmoid_mul_c64", None, scaled(fm, "mask_aggregate"), "eval_z"),
    ("fm_peer_conv_c64", None, scaled(peer, "activate"), "eval_z"),
    ("osb_rgb112", None, scaled(GlobalConvolution, "forward"), "seg0"),
    ("seg_loss", None, other_default(consensus_loss.ConsensusLoss, "beta", 5.02), "loss0"),
    ("heads", None, other_default(margins.AMArcFace, "m", 0.485), "out1"),
    ("heads", None, scaled(margins.AMCosFace, "target"), "out3"),
    ("msml_lightcnn_eval", None, scaled(LightBlock, "forward"), "feature"),
    ("sphere20_112x96", None, scaled(SphereBlock, "forward"), "feature"),
    ("decoder", None, scaled(Residual, "forward"), "rec"),
    (TRAIN, 1, unclipped, "step0_state_rows"),
]


@pytest.mark.parametrize(("name", "steps"), sorted({case[:2] for case in CASES}, key=str))
def test_it_passes(name: str, steps: int | None) -> None:
    ok, line = outcome(name, steps)
    assert ok, line


@pytest.mark.parametrize(("name", "steps", "change", "output"), CASES)
def test_it_fails_when_a_constant_changes(
    name: str,
    steps: int | None,
    change: Callable[[pytest.MonkeyPatch], None],
    output: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(monkeypatch)
    ok, line = outcome(name, steps)
    assert not ok
    assert f" {output}" in line and ("expected" in line or "row " in line), line
