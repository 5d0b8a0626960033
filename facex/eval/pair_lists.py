"""1:1 lists on folders of pictures: PKU-Masked-Face (two lines a pair) and `pairs.txt` of LFW, MFR2 and RMFRD.

A list becomes a `PairFolder`, a verification set whose pictures stay on the disk. Formats: the lists of MSML's official
code (`get_filelist_pku`), and LFW's pairs.txt, `person i j` for one person and `person1 i person2 j` for two, where i
counts the person's pictures from 1 in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args, overload

import numpy as np

from facex.data.sources.imagefolder import SUFFIXES
from facex.data.verification import OnError, VerificationSet
from facex.errors import VerificationSetError

PairFormat = Literal["lines", "indexed"]
Missing = Literal["raise", "skip"]


@dataclass
class _Files(Sequence[bytes]):
    """The encoded pictures as a sequence: each is read when it is asked for."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        if isinstance(place, slice):
            return [_bytes(path) for path in self.paths[place]]
        return _bytes(self.paths[place])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VerificationSetError(f"{path}: cannot be read: {error.strerror or error}") from error


class PairFolder(VerificationSet):
    """Pairs of picture files: `files` [2n] in the order left, right, left, right. `skipped` pairs of the list were left
    out because a picture is missing."""

    def __init__(
        self, files: Sequence[Path], issame: np.ndarray, name: str, path: Path | None = None, skipped: int = 0
    ) -> None:
        super().__init__(cast("list[bytes]", _Files(files)), issame, name, path)
        self.files = files
        self.skipped = skipped

    def distinct(self) -> tuple[PairFolder, np.ndarray] | None:
        """See the base class; None for a set without pairs, and for one with flags, which belong to entries."""
        if not len(self) or self.flags is not None:
            return None
        places: dict[Path, int] = {}
        where = [places.setdefault(file, len(places)) for file in self.files]
        return PairFolder(list(places), np.empty(0, bool), self.name, self.path), np.array(where, np.int64)

    def _image(self, i: int, size: int | None, on_error: OnError, shape: Sequence[int] | None) -> np.ndarray:
        try:
            return super()._image(i, size, on_error, shape)
        except VerificationSetError as error:
            raise VerificationSetError(f"{self.files[i]}: {error}") from None


def read_pairs(
    path: str | Path, root: str | Path, form: PairFormat | None = None, missing: Missing = "raise"
) -> PairFolder:
    """Read a list whose pictures lie below `root`.

    "lines": a path a line, two lines a pair, the first half of the pairs genuine. "indexed": pairs.txt. None tells them
    apart by the last line, which has several words in pairs.txt alone. Errors name list and line; with `missing` "skip", pairs whose picture is
    missing are left out and counted. Raises VerificationSetError.
    """
    path, root = Path(path), Path(root)
    if form is not None and form not in get_args(PairFormat):
        raise VerificationSetError(f"unknown form {form!r} of a pair list; there are {', '.join(get_args(PairFormat))}")
    if missing not in get_args(Missing):
        raise VerificationSetError(f"missing pictures can {' or '.join(get_args(Missing))}, not {missing!r}")
    if not root.is_dir():
        raise VerificationSetError(f"{root}: no such folder; it must hold the pictures that {path} names")
    lines = _lines(path)
    indexed = form == "indexed" if form else len(_words(lines[-1][1])) > 1
    read = _indexed if indexed else _two_lines
    files: list[Path] = []
    labels: list[bool] = []
    skipped = 0
    for pair, same, problem in read(path, root, lines):
        if problem and missing == "raise":
            raise VerificationSetError(f"{path}, {problem}; missing='skip' (--missing skip) leaves such pairs out")
        if problem:
            skipped += 1
            continue
        files += pair
        labels.append(same)
    if not labels:
        raise VerificationSetError(f"{path}: none of the {skipped} pairs has both its pictures below {root}")
    return PairFolder(files, np.array(labels, bool), path.stem, path, skipped)


_Pair = tuple[tuple[Path, ...], bool, str]  # files, genuine, what is wrong ("" = nothing)


def _two_lines(path: Path, root: Path, lines: list[tuple[int, str]]) -> Iterator[_Pair]:
    if len(lines) % 4:
        raise VerificationSetError(
            f"{path}: {len(lines)} lines; two lines a pair and as many genuine as impostor pairs make a multiple of 4"
        )
    there: dict[str, bool] = {}
    for pair in range(len(lines) // 2):
        two = lines[2 * pair : 2 * pair + 2]
        for _, text in two:
            if text not in there:
                there[text] = (root / text).is_file()
        lost = [f"line {number}: no picture {root / text}" for number, text in two if not there[text]]
        yield tuple(root / text for _, text in two), pair < len(lines) // 4, lost[0] if lost else ""


def _indexed(path: Path, root: Path, lines: list[tuple[int, str]]) -> Iterator[_Pair]:
    pictures: dict[str, list[Path]] = {}
    for place, (number, text) in enumerate(lines):
        words = _words(text)
        if place == 0 and len(words) < 3 and all(word.isdigit() for word in words):
            continue  # LFW's first line: the numbers of folds and of pairs in each
        if len(words) not in (3, 4):
            raise VerificationSetError(
                f"{path}, line {number}: {text!r}; 'person i j' or 'person1 i person2 j' is wanted"
            )
        named = [(words[0], words[1]), (words[0] if len(words) == 3 else words[2], words[-1])]
        found, problem = [], ""
        for person, index in named:
            if not index.isdigit() or int(index) < 1:
                raise VerificationSetError(f"{path}, line {number}: {index!r} is no number of a picture (from 1)")
            if person not in pictures:
                pictures[person] = _pictures_of(root / person)
            own = pictures[person]
            if int(index) <= len(own):
                found.append(own[int(index) - 1])
            else:
                has = f"which has {len(own)}" if own else "where no pictures are"
                problem = problem or f"line {number}: there is no picture {index} in {root / person}, {has}"
        yield tuple(found), len(words) == 3, problem


def _pictures_of(folder: Path) -> list[Path]:
    """The picture files of a person in the order of their names; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _words(text: str) -> list[str]:
    return text.split("\t") if "\t" in text else text.split()


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationSetError(f"{path}: cannot be read: {error}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise VerificationSetError(f"{path}: the list is empty")
    return lines
