"""The occluder goldens pass, and fail when one constant of the product changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facex.data.occluders import block, gauss, paste, shapes
from tests.golden.case import Case, Expected
from tests.golden.discover import find_cases
from tests.golden.harness import run_case
from tests.golden.kinds import occluders

GOLDENS = Path(__file__).parents[1] / "golden" / "msml"
Patch = Callable[[pytest.MonkeyPatch], None]


def fewer_shares(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shapes.Rectangle, "steps", 30)


def larger_ellipse(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shapes.Ellipse, "area", (0.2, 0.41))


def blunt_polygon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shapes.Polygon, "inner", (1.2, 2.6))


def paler_block(patch: pytest.MonkeyPatch) -> None:
    content = block.Block._content

    def shifted(self, image: np.ndarray, side: int, rng: np.random.RandomState):
        made = content(self, image, side, rng)
        return made if isinstance(made, int) else made - 1

    patch.setattr(block.Block, "_content", shifted)


def clear_lenses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(paste.Glasses, "hidden", 40)


def smaller_scarf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(paste.Scarf, "side", 89)


def smaller_object(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(paste.RealObject, "side", 54)


def narrower_map(patch: pytest.MonkeyPatch) -> None:
    made = gauss.gauss_map
    patch.setattr(occluders, "gauss_map", lambda *args: made(*args) ** 1.001)


PATCHES: list[tuple[str, Patch]] = [
    ("aug_geometric", fewer_shares),
    ("aug_geometric", larger_ellipse),
    ("aug_geometric", blunt_polygon),
    ("aug_geometric", paler_block),
    ("aug_assets", clear_lenses),
    ("aug_assets", smaller_scarf),
    ("aug_assets", smaller_object),
    ("gauss_map", narrower_map),
]


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[Case, Expected]]:
    found = find_cases(GOLDENS, {"msml"})
    return {case.kind: (case, expected) for case, expected in found if case.key in occluders.KINDS and expected}


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in PATCHES}))
def test_it_passes(cases: dict[str, tuple[Case, Expected]], kind: str) -> None:
    passed, line = run_case(*cases[kind], occluders.KINDS[f"msml/{kind}"])
    assert passed, line


@pytest.mark.parametrize(("kind", "change"), PATCHES, ids=lambda x: getattr(x, "__name__", x))
def test_it_bites(
    cases: dict[str, tuple[Case, Expected]], kind: str, change: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    passed, _ = run_case(*cases[kind], occluders.KINDS[f"msml/{kind}"])
    assert not passed
