"""What the tests of goldens share: which cases there are, and that a changed constant of the product is seen in them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.golden import fill
from tests.golden.case import Case, Expected
from tests.golden.discover import find_cases
from tests.golden.harness import run_case

GOLDENS = Path(__file__).parents[3] / "tests" / "golden" / "sarface"
Change = Callable[[pytest.MonkeyPatch], None]
filled = functools.cache(fill.filled)  # weights are drawn once for all tests


class Goldens:
    """The cases, by name, of the kinds that `runners` run."""

    def __init__(self, runners: Mapping[str, Callable[[Any], dict[str, Any]]]) -> None:
        self.runners = runners
        self.found: dict[str, tuple[Case, Expected]] = {
            case.name: (replace(case, filled=filled), expected)
            for case, expected in find_cases(GOLDENS, {"sarface"})
            if expected is not None and case.key in runners
        }

    def kinds(self, names: Collection[str]) -> set[str]:
        """The kinds of these cases."""
        return {self.found[name][0].key for name in names}

    def outcome(self, name: str) -> tuple[bool, str]:
        """Whether a case passes, and the line that says so."""
        case, expected = self.found[name]
        return run_case(case, expected, self.runners[case.key])

    def passes(self, name: str) -> None:
        """Assert that the case passes."""
        ok, line = self.outcome(name)
        assert ok, line

    def fails(self, name: str, outputs: str) -> None:
        """Assert that the case fails by a value, not by an error, in one of the `outputs` (a|b)."""
        ok, line = self.outcome(name)
        assert not ok
        assert any(part in line for part in outputs.split("|")), line
        assert any(word in line for word in ("expected", "entries", "off by", "agree")), line
        assert "Error" not in line, line
