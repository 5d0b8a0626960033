"""Finding cases below a folder: `cases.json` of array cases, and one case per file for record and verification files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from tests.golden.case import Case, Expected


def find_cases(root: Path, families: set[str]) -> Iterator[tuple[Case, Expected | None]]:
    """Every case below `root`, in the order of the names."""
    for folder in sorted([root, *(p for p in root.rglob("*") if p.is_dir() and p.name != "__pycache__")]):
        index = folder / "cases.json"
        if index.is_file():
            content = json.loads(index.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                yield from _array_cases(folder, content, families)
            else:
                yield from _row_cases(folder, content)
        yield from _file_cases(folder)


def family_of(folder: Path, families: set[str]) -> str:
    """The family that a folder of array cases belongs to: its own name, else the nearest parent's that is a family's."""
    for name in [folder.name, *(p.name for p in folder.resolve().parents)]:
        if name in families:
            return name
    return folder.name


def _array_cases(folder: Path, content: dict[str, Any], families: set[str]) -> Iterator[tuple[Case, Expected]]:
    family = family_of(folder, families)
    for name, entry in content.items():
        if name.startswith("_"):
            continue
        case = Case(family, entry["kind"], name, entry.get("params", {}), folder=folder)
        try:
            with open(folder / f"{name}.npz", "rb") as file, np.load(file, allow_pickle=False) as data:
                arrays = {key: data[key] for key in data.files}
            # `also_inputs`: outputs of one part of the case that are what the next part reads
            given = [*entry.get("inputs", []), *case.params.get("also_inputs", [])]
            case.inputs = {key: arrays[key] for key in given}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            case.problem, arrays = f"{name}.npz: {type(error).__name__}: {error}", {}
        yield case, Expected(entry["outputs"], arrays)


def _row_cases(folder: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[Case, None]]:
    for row in rows:
        if "file" in row:
            yield (
                Case("verification", "hostile", row["file"], folder=folder, path=folder / row["file"], expect=row),
                None,
            )
        else:
            path = folder / (row.get("rec") or row["name"])
            yield Case("recordio", "corrupt", row["name"], folder=folder, path=path, expect=row), None


def _file_cases(folder: Path) -> Iterator[tuple[Case, None]]:
    for path in sorted(folder.glob("*.expect.*")):
        target = path.name.split(".expect.")[0]
        expect: Any
        if path.suffix == ".json":
            expect = json.loads(path.read_text(encoding="utf-8"))
        else:
            with np.load(path, allow_pickle=False) as data:
                expect = {key: data[key] for key in data.files}
        family = "verification" if target.endswith(".bin") else "recordio"
        file = folder / target
        if family == "recordio" and file.suffix != ".rec":
            file = folder / f"{target}.rec"
        yield Case(family, "expect", f"{folder.name}/{target}", folder=folder, path=file, expect=expect), None
