"""One golden case: what a runner may see (parameters and inputs) and what only the harness sees (expected outputs)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import fill


@dataclass
class Variant:
    """The outputs of one implementation of a case.

    `absent` names outputs that this implementation cannot have (the fused op has no logits); the first variant of a case
    must be complete. `finite_only`: the reference's NaN are deliberate deviations; compare its finite values and require
    finite results.
    """

    outputs: dict[str, Any]
    name: str = "product"
    absent: frozenset[str] = frozenset()
    finite_only: bool = False


@dataclass
class Case:
    """What a runner gets. File cases have `path` and `expect`; array cases have `params` and `inputs`."""

    family: str
    kind: str
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    folder: Path = Path()
    path: Path = Path()
    expect: Any = None
    problem: str = ""  # why the case cannot be run: its files are missing or damaged
    filled: Callable[..., np.ndarray] = fill.filled
    images: Callable[..., np.ndarray] = fill.images

    @property
    def key(self) -> str:
        """Name under which the runner is registered."""
        return f"{self.family}/{self.kind}"


@dataclass
class Expected:
    """The harness's half of an array case: how each output is compared, and every array of the file."""

    specs: dict[str, dict[str, Any]]
    arrays: dict[str, np.ndarray]


# A runner of an array case returns outputs by name, or one Variant per implementation; a runner of a file case returns
# nothing and raises AssertionError when the product's answer is not the expected one.
Result = dict[str, Any] | Variant | list[Variant] | None
Runner = Callable[[Case], Result]
