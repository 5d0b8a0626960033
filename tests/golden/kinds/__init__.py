"""Runners by kind: those of the core in this folder, and those that installed plugins bring by entry point."""

from __future__ import annotations

import importlib
import pkgutil

from facex.entrypoints import entries
from tests.golden.case import Runner


def all_kinds() -> dict[str, Runner]:
    """`{"folder/kind": runner}`. A plugin's entry point in the group `facex.golden_kinds` names such a mapping."""
    kinds: dict[str, Runner] = {}
    for module in pkgutil.iter_modules(__path__):
        kinds.update(importlib.import_module(f"{__name__}.{module.name}").KINDS)
    for entry in entries("facex.golden_kinds"):
        kinds.update(entry.load())
    return kinds
