"""Who wears a mask, from a file: an array in the order of the pictures, or a list of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facex.data.verification import read_flags
from facex.errors import VerificationSetError


def flags_of_pictures(path: str | Path, names: Sequence[str]) -> np.ndarray:
    """bool [n] of the pictures `names`: from a .npy with 0 or 1 for each in their order, or from a list with a line `name
    flag` for each, in any order.

    Raises VerificationSetError: a file that cannot be read, a picture that is missing, a flag that is not 0 or 1.
    """
    path = Path(path)
    if path.suffix == ".npy":
        flags = read_flags(path, len(names))
        if flags is None:
            raise VerificationSetError(f"{path}: no such file")
        return flags
    listed = _read_list(path)
    missing = [name for name in names if name not in listed]
    if missing:
        raise VerificationSetError(
            f"{path}: no flag for {len(missing)} of {len(names)} pictures; the first is {missing[0]}"
        )
    return np.array([listed[name] for name in names], bool)


def _read_list(path: Path) -> dict[str, bool]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise VerificationSetError(f"{path}: cannot be read as a list of flags: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise VerificationSetError(f"{path}: cannot be read as a list of flags: {error}") from error
    flags: dict[str, bool] = {}
    for number, line in enumerate(lines, 1):
        name, _, value = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or value not in ("0", "1"):
            raise VerificationSetError(
                f"{path}: line {number}: 'name flag' with a flag of 0 or 1 is wanted, not {line!r}"
            )
        flags[name] = value == "1"
    return flags
