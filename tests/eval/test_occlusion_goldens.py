"""The official numbers: each kind passes, and fails when one constant of the product changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex.data.occluders.block import Block
from facex.eval import folds, occlusion_input, occlusion_metrics, pair_lists_pku, verification
from tests.golden.case import Case, Expected
from tests.golden.discover import find_cases
from tests.golden.harness import run_case
from tests.golden.kinds import occlusion

GOLDENS = Path(__file__).parents[1] / "golden" / "msml"
Patch = Callable[[pytest.MonkeyPatch], None]


def golden(kind: str) -> tuple[Case, Expected]:
    for case, expected in find_cases(GOLDENS, {"msml"}):
        if case.kind == kind and expected is not None:
            return case, expected
    pytest.fail(f"no golden case of kind {kind}")


def larger_half(patch: pytest.MonkeyPatch) -> None:
    """TAR over all genuine pairs but one, not half of the pairs."""
    original = occlusion_metrics.check_scores
    patch.setattr(occlusion_metrics, "check_scores", lambda s, y: tuple(v[2:] for v in original(s, y)))


def shifted_grid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verification, "ACCURACY_THRESHOLDS", folds.ACCURACY_THRESHOLDS + 0.02)


def other_corner(patch: pytest.MonkeyPatch) -> None:
    """The share's root of the height, one pixel more."""
    original = Block.cover

    def cover(self: Block, image: np.ndarray, mask: np.ndarray, rng: Any) -> None:
        original(self, image[:, 1:], mask[:, 1:], rng)

    patch.setattr(Block, "cover", cover)


def unmirrored(patch: pytest.MonkeyPatch) -> None:
    original = occlusion_input.OccludedView.__call__
    patch.setattr(
        occlusion_input.OccludedView,
        "__call__",
        lambda self, images, generators, first=0, mirrored=False: original(self, images, generators, first),
    )


def every_entry(patch: pytest.MonkeyPatch) -> None:
    original = occlusion_input.OccludedView.__call__
    patch.setattr(
        occlusion_input.OccludedView,
        "__call__",
        lambda self, images, generators, first=0, mirrored=False: original(
            self, images, generators, first + 1, mirrored
        ),
    )


def shorter_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pair_lists_pku, "_STEP", 2)


def one_pose(patch: pytest.MonkeyPatch) -> None:
    """A draw less for every face."""
    patch.setattr(random.Random, "randint", lambda self, low, high: 0 if high == 7 else low + int(self.random() * 2))


CASES: dict[str, list[Patch]] = {
    "verification": [larger_half, shifted_grid],
    "eval_input": [other_corner, unmirrored, every_entry],
    "pair_list": [shorter_step, one_pose],
}


@pytest.mark.parametrize("kind", CASES)
def test_golden_passes_and_bites(kind: str) -> None:
    case, expected = golden(kind)
    runner = occlusion.KINDS[f"msml/{kind}"]
    passed, line = run_case(case, expected, runner)
    assert passed, line
    for change in CASES[kind]:
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            passed, line = run_case(case, expected, runner)
        assert not passed, f"{change.__name__}: {line}"
        assert "Error" not in line, line  # it is the numbers that are wrong


def test_a_setting_that_we_do_not_have_is_refused() -> None:
    case, expected = golden("eval_input")
    case.params = {**case.params, "flip_occlusion": "shared"}
    passed, line = run_case(case, expected, occlusion.eval_input)
    assert not passed
    assert "not supported" in line
