"""The folder of IJB-B or IJB-C as insightface hands it out: which set it is, its lists, and its pictures, aligned."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facex.data.imageio import GREY, ImageError, decode_image
from facex.data.verification import OnError
from facex.errors import ConfigError, DataError
from facex.eval.ijb_files import Faces, IjbLists, Subjects, read_ijb
from facex.eval.pair_lists import Missing
from facex.inference.align import align

TARGETS = ("IJBB", "IJBC")
SIZE = 112  # pixels of an aligned face, as in every set that recognisers are tested on
Load = Callable[[int], np.ndarray]


@dataclass
class IjbSet:
    """The lists, what reads a face of them (entry -> uint8 [112, 112, 3] RGB, aligned; any thread may call it), and what
    was left out because pictures are missing."""

    lists: IjbLists
    load: Load
    skipped_faces: int = 0
    skipped_pairs: int = 0

    @property
    def name(self) -> str:
        """IJB-B or IJB-C."""
        return f"{self.lists.target[:3]}-{self.lists.target[3:]}"


def find_ijb(folder: str | Path, target: str | None = None) -> tuple[str, Path, Path]:
    """(target, folder of the lists, folder of the pictures): FOLDER/meta with FOLDER/loose_crop, or the same inside
    FOLDER/IJBB or FOLDER/IJBC. `target` None: whichever set is there.

    Raises DataError where no set is there, ConfigError for two and no word which.
    """
    folder = Path(folder)
    if target is not None and target not in TARGETS:
        raise ConfigError(f"unknown IJB set {target!r}; there are {', '.join(TARGETS)}")
    found = []
    for name in (target,) if target else TARGETS:
        places = [base for base in (folder, folder / name) if (base / "meta" / _list_name(name)).is_file()]
        found += [(name, base / "meta", base / "loose_crop") for base in places[:1]]
    if not found:
        wanted = " or ".join(f"meta/{_list_name(name)}" for name in ((target,) if target else TARGETS))
        raise DataError(
            f"{folder}: neither it nor a folder IJBB or IJBC in it has {wanted}, with loose_crop beside meta"
        )
    if len(found) > 1:
        raise ConfigError(f"{folder} holds IJB-B and IJB-C; say which with --ijb-set IJBC (or IJBB)")
    return found[0]


def open_ijb(
    folder: str | Path, target: str | None = None, missing: Missing = "raise", on_error: OnError = "raise"
) -> IjbSet:
    """Read the lists and see that every picture is there, before anything is computed.

    With `missing` "skip" faces whose picture is missing are left out, and pairs and 1:N entries whose template has no
    face then. With `on_error` "grey" a picture that cannot be decoded or aligned is a grey face. Raises DataError naming
    list and line.
    """
    target, meta, images = find_ijb(folder, target)
    lists = read_ijb(meta, target)
    faces = lists.faces
    lost = missing_pictures(images, faces)
    rows = np.arange(len(faces.names))
    if len(lost) and missing == "raise":
        raise DataError(
            f"{meta / _list_name(target)}, line {lost[0] + 1}: no picture {images / faces.names[lost[0]]} ({len(lost)} of"
            f" {len(rows)} are missing); missing='skip' (--missing skip) leaves such faces out"
        )
    rows = np.delete(rows, lost)
    if not len(rows):
        raise DataError(f"{images}: none of the {len(lost)} pictures of {meta / _list_name(target)} is there")
    left = keep_faces(lists, rows) if len(lost) else lists
    if not len(left.first):
        raise DataError(f"{images}: {len(lost)} pictures are missing, and no pair of templates is left")
    load = face_loader(images, left.faces, rows + 1, meta / _list_name(target), on_error)
    return IjbSet(left, load, len(lost), len(lists.first) - len(left.first))


def missing_pictures(images: Path, faces: Faces) -> np.ndarray:
    """Entries of the list whose file is not in the folder: int64 [m]. Raises DataError where there is no such folder."""
    try:
        there = set(os.listdir(images))  # one listing: hundreds of thousands of look-ups take minutes on a network disk
    except OSError as error:
        raise DataError(
            f"{images}: cannot be read: {error.strerror}; it must hold the pictures of the lists"
        ) from error
    lost = [i for i, name in enumerate(faces.names) if name not in there and not (images / name).is_file()]
    return np.array(lost, np.int64)


def keep_faces(lists: IjbLists, rows: np.ndarray) -> IjbLists:
    """The lists with these faces alone: pairs, gallery entries and probes of templates without a face are dropped."""
    old = lists.faces
    faces = Faces(
        [old.names[i] for i in rows.tolist()],
        *(column[rows] for column in (old.templates, old.media, old.landmarks, old.scores)),
    )
    there = np.unique(faces.templates)
    pairs = np.isin(lists.first, there) & np.isin(lists.second, there)

    def kept(subjects: Subjects) -> Subjects:
        inside = np.isin(subjects.templates, there)
        return Subjects(subjects.templates[inside], subjects.subjects[inside])

    return replace(
        lists,
        faces=faces,
        first=lists.first[pairs],
        second=lists.second[pairs],
        issame=lists.issame[pairs],
        galleries=[kept(gallery) for gallery in lists.galleries],
        probes=None if lists.probes is None else kept(lists.probes),
    )


def face_loader(images: Path, faces: Faces, lines: np.ndarray, listed: Path, on_error: OnError = "raise") -> Load:
    """What reads and aligns a face: entry -> uint8 [112, 112, 3] RGB. `lines` [n]: where the entry stands in `listed`.

    It raises DataError naming list, line and picture for one that cannot be read, decoded or aligned; with `on_error`
    "grey" such a face is grey.
    """

    def load(entry: int) -> np.ndarray:
        path = images / faces.names[entry]
        try:
            bgr = decode_image(path.read_bytes(), color="bgr")
            return np.ascontiguousarray(align(bgr, faces.landmarks[entry], SIZE)[..., ::-1])
        except (OSError, ImageError, DataError) as error:
            if on_error == "grey":
                return np.full((SIZE, SIZE, 3), GREY, np.uint8)
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(
                f"{listed}, line {lines[entry]}: {path}: {reason} (on_error='grey', --on-error grey, puts a grey face there)"
            ) from None

    return load


def _list_name(target: str) -> str:
    return f"{target.lower()}_face_tid_mid.txt"
