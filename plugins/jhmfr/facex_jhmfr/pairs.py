"""The pair lists of JHMFR's evaluation by the name of the data set: LFW and relatives, CALFW, CPLFW, RFW, RMFVD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from facex.entrypoints import nearest
from facex.errors import VerificationSetError

FOLD_HALF = 300  # genuine and impostor pairs of a fold of CALFW and CPLFW
SIX_THOUSAND = 6000


@dataclass(frozen=True)
class Pair:
    """Two files, relative to the data set's folder, and whether they show one person."""

    first: str
    second: str
    same: bool


Parser = Callable[[Sequence[str], str], list[Pair]]


def parse_pairs(name: str, text: str, where: str = "pairs") -> list[Pair]:
    """The pairs of a list in the form of the data set `name`, in the order in which they make folds.

    LFW, CFPFP, AgeDB30, RMFVD: `a b label`. lfw_official: LFW's own pairs.txt. RFW (any name with it): the same without
    its first line. CALFW, CPLFW: two lines `file label` a pair, 6000 pairs, put into folds of 300 genuine and 300
    impostor ones.

    Raises:
        VerificationSetError: an unknown name, or a line of another form, with its number.
    """
    parser = PARSERS.get(name) or (_rfw if "RFW" in name else None)
    if parser is None:
        raise VerificationSetError(f"{where}: no pair list of the data set {name!r} is known{nearest(name, PARSERS)}")
    return parser(text.splitlines(), where)


def _three(lines: Sequence[str], where: str) -> list[Pair]:
    """`a b label`, single blanks; .jpg is added where it is missing."""
    pairs = []
    for number, line in _numbered(lines):
        words = line.split(" ")
        if len(words) != 3 or words[2] not in ("0", "1"):
            raise VerificationSetError(f"{where}: line {number}: 'file file 0 or 1' is wanted, not {line!r}")
        pairs.append(Pair(_jpg(words[0]), _jpg(words[1]), words[2] == "1"))
    return pairs


def _rfw(lines: Sequence[str], where: str) -> list[Pair]:
    """`person i j` (one person) or `person i person j`, tabs between."""
    pairs = []
    for number, line in _numbered(lines):
        words = line.split("\t")
        if len(words) not in (3, 4) or not all(w.isdigit() for w in (words[1], words[-1])):
            raise VerificationSetError(f"{where}: line {number}: 'name i j' or 'name i name j' is wanted, not {line!r}")
        first, second = words[0], words[0] if len(words) == 3 else words[2]
        pairs.append(Pair(_numbered_file(first, words[1]), _numbered_file(second, words[-1]), len(words) == 3))
    return pairs


def _lfw_official(lines: Sequence[str], where: str) -> list[Pair]:
    return _rfw(["", *lines[1:]], where)


def _two_lines(lines: Sequence[str], where: str) -> list[Pair]:
    """CALFW and CPLFW: genuine where the label is not 0, re-ordered into folds."""
    rows = []
    for number, line in _numbered(lines):
        words = line.split(" ")
        if len(words) != 2 or not words[1].lstrip("-").isdigit():
            raise VerificationSetError(f"{where}: line {number}: 'file label' is wanted, not {line!r}")
        rows.append((words[0], int(words[1]) != 0))
    if len(rows) != 2 * SIX_THOUSAND:
        raise VerificationSetError(f"{where}: {len(rows)} lines; two lines for each of 6000 pairs are wanted")
    pairs = [Pair(a, b, same) for (a, same), (b, _) in zip(rows[::2], rows[1::2], strict=True)]
    genuine, impostor = ([p for p in pairs if p.same is wanted] for wanted in (True, False))
    if len(genuine) != len(impostor):
        raise VerificationSetError(f"{where}: {len(genuine)} genuine pairs of {len(pairs)}; half of them are wanted")
    folds = [(genuine[i : i + FOLD_HALF], impostor[i : i + FOLD_HALF]) for i in range(0, len(genuine), FOLD_HALF)]
    return [pair for fold in folds for half in fold for pair in half]


def _numbered(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Line numbers and lines that are not empty."""
    return [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip()]


def _jpg(name: str) -> str:
    return name if name.endswith(".jpg") else f"{name}.jpg"


def _numbered_file(person: str, number: str) -> str:
    return f"{person}/{person}_{int(number):04d}.jpg"


PARSERS: dict[str, Parser] = {
    "LFW": _three,
    "CFPFP": _three,
    "AgeDB30": _three,
    "RMFVD": _three,
    "lfw_official": _lfw_official,
    "RFW": _rfw,
    "CALFW": _two_lines,
    "CPLFW": _two_lines,
}
