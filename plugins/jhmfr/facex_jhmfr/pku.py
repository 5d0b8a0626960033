"""Rank-1 identification on PKU-Masked-Face: frontal masked faces searched among frontal bare ones.

Folders `{person}_{0|1}` (0 bare, 1 masked) hold `{k}_{pose}.png`, pose 0 from the front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facex.errors import DataError
from facex.eval.identification import top_counts
from facex.eval.matching import match

_FOLDER = re.compile(r"(.+)_([01])")
_FRONTAL = re.compile(r"\d+_0\.(png|jpg|jpeg|bmp)", re.IGNORECASE)
RANKS = (1, 5)


@dataclass
class PkuFaces:
    """Files relative to the root, people int64 [n], masked bool [n]."""

    names: list[str]
    person: np.ndarray
    masked: np.ndarray


@dataclass
class PkuResult:
    """Rates (0..1) by rank, and how many faces took part; `skipped` probes have nobody in the gallery."""

    rates: dict[int, float]
    gallery: int
    probes: int
    people: int
    skipped: int

    def summary(self) -> dict[str, Any]:
        """Plain numbers, rank 1 first."""
        return {f"rank-{rank}": rate for rank, rate in self.rates.items()} | {
            "gallery": self.gallery,
            "probes": self.probes,
            "people": self.people,
            "skipped": self.skipped,
        }


def read_pku(root: str | Path) -> PkuFaces:
    """The frontal faces below `root`, sorted by path; DataError where bare or masked ones are missing altogether."""
    root, names, people, masked = Path(root), [], [], []
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    numbers: dict[str, int] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        found = _FOLDER.fullmatch(folder.name)
        if found is None:
            continue
        for file in sorted(folder.iterdir()):
            if _FRONTAL.fullmatch(file.name):
                names.append(f"{folder.name}/{file.name}")
                people.append(numbers.setdefault(found[1], len(numbers)))
                masked.append(found[2] == "1")
    faces = PkuFaces(names, np.array(people, np.int64), np.array(masked, bool))
    if not faces.masked.any() or faces.masked.all():
        what = "masked" if not faces.masked.any() else "bare"
        raise DataError(f"{root}: no frontal {what} faces; folders PERSON_0 and PERSON_1 with files K_0.png are wanted")
    return faces


def identify_pku(vectors: np.ndarray, faces: PkuFaces, ranks: Sequence[int] = RANKS) -> PkuResult:
    """Rank rates of embeddings of unit length float [n, D] in the order of `faces`.

    The gallery are all frontal bare faces, the probes all frontal masked ones. A probe is found at rank k when fewer
    than k gallery faces of other people have a cosine as high as its own person's best. Probes of people without a
    bare face are left out and counted.
    """
    probe, bare = faces.masked, ~faces.masked
    known = probe & np.isin(faces.person, faces.person[bare])
    if not known.any():
        raise DataError("no masked face belongs to a person of the gallery")
    found = match(vectors[known], vectors[bare], faces.person[known], faces.person[bare])
    rates = top_counts(found, ranks) / len(found)
    people = len(np.unique(faces.person[bare]))
    return PkuResult(
        dict(zip(ranks, rates.tolist(), strict=True)),
        int(bare.sum()),
        int(known.sum()),
        people,
        int((probe & ~known).sum()),
    )
