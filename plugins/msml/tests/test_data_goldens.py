"""The golden samples and recipes pass, and fail when one constant of the product changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from facex_msml import golden_kinds_data, official, recipes, samples

from facex.data.occluders import Ellipse
from tests.golden.discover import find_cases
from tests.golden.harness import run_case

GOLDENS = Path(__file__).parents[3] / "tests" / "golden" / "msml"
FOUND = {case.name: (case, expected) for case, expected in find_cases(GOLDENS, {"msml"})}


def outcome(name: str) -> tuple[bool, str]:
    case, expected = FOUND[name]
    return run_case(case, expected, golden_kinds_data.KINDS[case.key])


@pytest.mark.parametrize("name", ["pipeline_ms1m", "recipes"])
def test_it_passes(name: str) -> None:
    ok, line = outcome(name)
    assert ok, line


def flat_texture(draws: samples.TextureDraws, *size: int) -> Any:
    return samples.texture(draws, *size) * 1.01


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "value"),
    [
        ("pipeline_ms1m", samples, "LIGHT_RADIUS", 127.0),
        ("pipeline_ms1m", official, "texture", flat_texture),
        ("pipeline_ms1m", Ellipse, "area", (0.2, 0.41)),
        ("recipes", recipes, "CLASSES", {"ms1m-retinaface-t2": 93432, "webface": 10572}),
        ("recipes", recipes, "GREY_SIDE", 112),
    ],
)
def test_it_fails_when_a_constant_changes(
    name: str, owner: Any, attribute: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, attribute, value)
    ok, line = outcome(name)
    assert not ok, line
    assert "Error" not in line
