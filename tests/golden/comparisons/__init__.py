"""How each family's outputs are compared: `cases.json` says it in words (`_conventions`), a module here carries it out.

A module named as the family defines `compare(name, variant, expected)`, which gives the worst error relative to what is
allowed (1 = at the tolerance) and what is wrong (None = passes). It must refuse a key of the output's spec that it does not know.
Families without a module are compared by `tests.golden.compare` alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from tests.golden.case import Expected, Variant
from tests.golden.compare import compare as compare_arrays

Comparison = Callable[[str, Variant, Expected], tuple[float, str | None]]


def comparison_of(family: str) -> Comparison:
    """The comparison of a family of golden cases."""
    if any(module.name == family for module in pkgutil.iter_modules(__path__)):
        comparison: Comparison = importlib.import_module(f"{__name__}.{family}").compare
        return comparison
    return whole_array


def whole_array(name: str, variant: Variant, expected: Expected) -> tuple[float, str | None]:
    """The output against the array of its name, under the keys of `tests.golden.compare`."""
    return compare_arrays(variant.outputs[name], expected.arrays[name], expected.specs[name], variant.finite_only)
