"""TinyFace's identification: low-resolution probes searched among their mates and 153,000 distractors.

Source of the counting: AdaFace's `validation_lq`, which is the core's `facex.eval.identification.tinyface`. Pictures are aligned crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facex.data.sources.imagefolder import SUFFIXES
from facex.errors import DataError
from facex.eval.identification import TINYFACE_DISTRACTOR, tinyface
from facex.eval.pair_lists import PairFolder
from facex.eval.run import embed_set
from facex.eval.verification import normalize_rows
from facex.methods import Method
from facex.methods.method import Nets

RANKS = (1, 5, 20)


@dataclass(frozen=True)
class TinyFaces:
    """Files and people int64 of probes and gallery; distractors have the person -100."""

    probes: list[Path]
    probe_people: np.ndarray
    gallery: list[Path]
    gallery_people: np.ndarray

    @property
    def distractors(self) -> int:
        """How many faces of the gallery are nobody's mate."""
        return int((self.gallery_people == TINYFACE_DISTRACTOR).sum())


def read_tinyface(
    probes: str | Path, mates: str | Path, distractors: str | Path | None, images: str | Path
) -> TinyFaces:
    """The lists of probes and mates, names below the folders `images`/Probe and `images`/Gallery_Match where these are there,
    else below `images`; and all pictures below the folder `distractors`.

    Raises DataError for lists that cannot be read and pictures that are missing.
    """
    images = Path(images)
    (probe_files, probe_people), (files, people) = (
        _listed(Path(path), images / part if (images / part).is_dir() else images)
        for path, part in ((probes, "Probe"), (mates, "Gallery_Match"))
    )
    others = [] if distractors is None else _pictures(Path(distractors))
    labels = np.concatenate([people, np.full(len(others), TINYFACE_DISTRACTOR, np.int64)])
    return TinyFaces(probe_files, probe_people, [*files, *others], labels)


def _listed(path: Path, folder: Path) -> tuple[list[Path], np.ndarray]:
    names, people = read_list(path)
    files = [folder / name for name in names]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise DataError(f"{path}: {missing} is missing; do the list and the folder of the pictures belong together?")
    return files, people


def _pictures(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise DataError(f"{folder}: no pictures there")
    return found


def read_list(path: str | Path) -> tuple[list[str], np.ndarray]:
    """(names, people int64 [n]) of a text file of lines `name person`, or of TinyFace's .mat lists (needs SciPy).

    Raises DataError for a file of another form.
    """
    path = Path(path)
    names, people = _read_mat(path) if path.suffix == ".mat" else _read_text(path)
    if not names or len(names) != len(people):
        raise DataError(f"{path}: {len(names)} names and {len(people)} people; each name needs its person")
    return names, people


def _read_text(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [name for name, _ in lines], np.array([int(person) for _, person in lines], np.int64)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # UnicodeDecodeError too
        raise DataError(f"{path}: lines `name person` are wanted, person a whole number: {error}") from None


def _read_mat(path: Path) -> tuple[list[str], np.ndarray]:
    """The cell array of names and the array of numbers that a list holds, whatever they are called."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(
            f"{path}: reading .mat lists needs SciPy (pip install scipy); or write the list as text, `name person` a line"
        ) from error
    try:
        held: dict[str, Any] = {k: v for k, v in loadmat(str(path)).items() if not k.startswith("__")}
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(f"{path}: not a MATLAB list that SciPy reads: {error}") from error
    cells = [v for v in held.values() if isinstance(v, np.ndarray) and v.dtype == object]
    numbers = [v for v in held.values() if isinstance(v, np.ndarray) and v.dtype.kind in "iuf"]
    if len(cells) != 1 or len(numbers) != 1:
        raise DataError(f"{path}: one list of names and one of numbers are wanted; it holds {sorted(held)}")
    names = [str(np.asarray(cell).ravel()[0]) for cell in cells[0].ravel()]
    return names, numbers[0].ravel().astype(np.int64)


def identify(
    method: Method,
    nets: Nets,
    faces: TinyFaces,
    device: Any = "cpu",
    batch_size: int = 64,
    flip: bool = True,
    ranks: Sequence[int] = RANKS,
) -> dict[int, float]:
    """Closed-set rates (0..1) by rank, of embeddings brought to unit length; probes without a mate are left out.

    Raises DataError for pictures that do not decode, or where no probe has a mate.
    """
    vectors = []
    for name, files in (("probes", faces.probes), ("gallery", faces.gallery)):
        one = PairFolder(files, np.zeros(0, bool), name)
        vectors.append(normalize_rows(embed_set(method, nets, one, device, batch_size, flip).vector.numpy()))
    return tinyface(vectors[0], vectors[1], faces.probe_people, faces.gallery_people, ranks)
