"""Identification of people in sunglasses and scarves on the AR database (Martinez and Benavente, 1998).

Files are `m-001-01.bmp` or `w-001-01.bmp`: man or woman, number of the person, number of the picture. Pictures 1-13 are
the first session and 14-26 the second: neutral, smile, anger, scream, three lights, three of sunglasses, three of a
scarf. The protocols are those that MSML, PDSN and FROM are compared on: every sunglasses and every scarf picture is a
probe, a gallery of unoccluded pictures, rank 1 by the largest cosine. Protocol 1 has several pictures a person in the
gallery, Protocol 2 one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facex.data.sources.imagefolder import SUFFIXES
from facex.data.verification import OnError
from facex.errors import DataError
from facex.eval.matching import match
from facex.eval.pair_lists import Missing, PairFolder
from facex.eval.run import embed_set
from facex.eval.verification import normalize_rows
from facex.methods import Method
from facex.methods.method import Nets

SUNGLASSES = (8, 9, 10, 21, 22, 23)
SCARF = (11, 12, 13, 24, 25, 26)
GALLERY_1 = (*range(1, 8), *range(14, 21))  # Protocol 1: all that are not occluded
GALLERY_2 = (1,)  # Protocol 2: the neutral one
PICTURES = 26
_NAME = re.compile(r"^([mw])-(\d{1,3})-(\d{1,2})$", re.IGNORECASE)
_WOMEN = 50  # is added to a woman's number


@dataclass
class ArFaces:
    """The pictures of a folder: files, the person (int64 [n], men 1..50, women 51..100) and the number of the picture
    (1..26)."""

    files: list[Path]
    person: np.ndarray
    number: np.ndarray


def read_ar(folder: str | Path) -> ArFaces:
    """The pictures below `folder`, subfolders included, in the order of person and number.

    Raises DataError: no such folder, no picture, a picture of another name, two of one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it must hold the AR database's pictures, m-001-01.bmp and so on")
    found: dict[tuple[int, int], Path] = {}
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        name = _NAME.match(file.stem)
        if name is None or not 1 <= int(name[3]) <= PICTURES:
            raise DataError(
                f"{file}: pictures of the AR database are called m-NNN-NN or w-NNN-NN, the last number 1 to {PICTURES}"
            )
        key = int(name[2]) + (_WOMEN if name[1].lower() == "w" else 0), int(name[3])
        if key in found:
            raise DataError(f"{file} and {found[key]} are both picture {key[1]} of person {key[0]}; keep one")
        found[key] = file
    if not found:
        raise DataError(f"{folder}: no pictures ({', '.join(sorted(SUFFIXES))})")
    keys = sorted(found)
    return ArFaces([found[key] for key in keys], *(np.array(column, np.int64) for column in zip(*keys, strict=True)))


@dataclass
class ArResult:
    """Rank-1 rates (0..1) and numbers of probes; `skipped` probes are of people without a picture in the gallery."""

    sunglasses: float
    scarf: float
    probes: tuple[int, int]  # of sunglasses, of scarves
    gallery: tuple[int, ...]  # numbers of the pictures in the gallery
    people: int
    skipped: int

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a JSON file."""
        return {
            "sunglasses": self.sunglasses,
            "scarf": self.scarf,
            "probes": {"sunglasses": self.probes[0], "scarf": self.probes[1]},
            "gallery": list(self.gallery),
            "people": self.people,
            "skipped": self.skipped,
        }


def identify_ar(
    embeddings: np.ndarray,
    person: np.ndarray,
    number: np.ndarray,
    gallery: Sequence[int] = GALLERY_1,
    missing: Missing = "raise",
) -> ArResult:
    """The protocol on embeddings [n, D] of pictures `number` [n] of people `person` [n].

    A probe is found when its best cosine with its own person's pictures in the gallery exceeds every other. A probe of
    somebody without a picture in the gallery is an error, or is left out and counted with `missing` "skip". Raises
    DataError for that, NaN, occluded pictures in the gallery, and an empty gallery or set of probes.
    """
    occluded = [n for n in gallery if n in SUNGLASSES or n in SCARF or not 1 <= n <= PICTURES]
    if occluded or not gallery:
        raise DataError(f"gallery {list(gallery)}: pictures 1-7 and 14-20, which are not occluded, may be in it")
    in_gallery = np.isin(number, list(gallery))
    if not in_gallery.any():
        raise DataError(f"none of the pictures {list(gallery)} is there: the gallery is empty")
    rows = normalize_rows(embeddings)
    rates, counts, skipped = [], [], 0
    for what, numbers in (("sunglasses", SUNGLASSES), ("scarf", SCARF)):
        probes = np.isin(number, numbers)
        known = probes & np.isin(person, person[in_gallery])
        lost = int(np.sum(probes & ~known))
        if lost and missing == "raise":
            first = int(np.argmax(probes & ~known))
            raise DataError(
                f"{what} picture {number[first]} of person {person[first]}, who has none of the pictures {list(gallery)} in the"
                f" gallery ({lost} such probes); missing='skip' (--missing skip) leaves them out"
            )
        if not known.any():
            raise DataError(f"no {what} pictures {list(numbers)} to identify")
        found = match(rows[known], rows[in_gallery], person[known], person[in_gallery])
        rates.append(float(np.mean(found.rank == 0)))
        counts.append(int(known.sum()))
        skipped += lost
    people = len(np.unique(person[in_gallery]))
    return ArResult(rates[0], rates[1], (counts[0], counts[1]), tuple(gallery), people, skipped)


def evaluate_ar(
    method: Method,
    nets: Nets,
    folder: str | Path,
    gallery: Sequence[int] = GALLERY_1,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    flip: bool = True,
    on_error: OnError = "raise",
    missing: Missing = "raise",
) -> ArResult:
    """The protocol with a method on a folder of aligned faces; with torch.distributed the ranks share the pictures."""
    faces = read_ar(folder)
    pictures = PairFolder(faces.files, np.empty(0, bool), "ar", Path(folder))
    found = embed_set(method, nets, pictures, device, batch_size, flip, on_error)
    return identify_ar(found.vector.numpy(), faces.person, faces.number, gallery, missing)
