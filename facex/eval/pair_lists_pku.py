"""Making pair lists of PKU-Masked-Face: folders `{identity}_{0|1}` (0 full face, 1 masked), files `{k}_{pose}.png`.

Source: MSML's official `get_filelist_pku`; with a seeded `random.Random` the draws and lines are the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from facex.errors import DataError
from facex.files import write_text

IDENTITIES, IMAGES, FOLDER = 1018, 10, "images-retina-multi-pose"
# The official choice of poses: one of eight that are all the frontal one.
POSES = ("_0.png",) * 8
_STEP = 3  # an impostor pair is followed by the next identity and up to so many more
_FRUITLESS = 20  # rounds over all identities without a pair, after which there are none


def pku_lines(
    pairs: int,
    rng: random.Random,
    exists: Callable[[str], bool],
    *,
    identities: int = IDENTITIES,
    images: int = IMAGES,
    folder: str = FOLDER,
    poses: Sequence[str] = POSES,
) -> list[str]:
    """The 2 * `pairs` lines of a list: two lines a pair, the first half of the pairs genuine.

    Each face is full or masked by a draw, and the first picture of it that `exists` (of two alike, the next); pairs
    whose search ends at the last number are left out. Genuine pairs go through the identities in turn; impostor pairs
    take two neighbours and go on by 1 to 4. Raises DataError for an odd number of pairs, and where the pictures allow
    none.
    """
    if pairs < 2 or pairs % 2:
        raise DataError(f"{pairs} pairs: an even number is wanted, half of them genuine")
    if identities < 2 or images < 2 or not poses:
        raise DataError(
            f"{identities} identities, {images} pictures, {len(poses)} poses: at least 2, 2 and 1 are wanted"
        )
    lines: list[str] = []
    identity = since = 0

    def pick(person: int, masked: int, other: str) -> tuple[int, str]:
        pose = poses[rng.randint(0, len(poses) - 1)]
        for k in range(images):
            path = f"{folder}/{person}_{masked}/{k}{pose}"
            if path != other and exists(path):
                return k, path
        return images - 1, ""

    while len(lines) < 2 * pairs:
        genuine = len(lines) < pairs
        masked = rng.randint(0, 1), rng.randint(0, 1)
        first, left = pick(identity, masked[0], "")
        identity += not genuine
        second, right = pick(identity, masked[1], left)
        identity += genuine
        since += 1
        if images - 1 not in (first, second):
            lines += [left, right]
            since = 0
            if len(lines) == pairs:
                identity = 0  # the impostor pairs begin anew
            elif not genuine:
                identity += rng.randint(0, _STEP)
        identity %= identities
        if since > _FRUITLESS * identities:
            raise DataError(
                f"no {'genuine' if genuine else 'impostor'} pair among {since} draws: are there such pictures?"
            )
    return lines


def write_pku_list(path: str | Path, root: str | Path, pairs: int, seed: int = 0, folder: str = FOLDER) -> Path:
    """Write a list of the pictures below `root`/`folder`, all of it or nothing. Raises DataError as `pku_lines`."""
    base = Path(root)
    if not (base / folder).is_dir():
        raise DataError(f"{base / folder}: no such folder; it must hold the aligned pictures of PKU-Masked-Face")
    lines = pku_lines(pairs, random.Random(seed), lambda name: (base / name).is_file(), folder=folder)
    write_text(path, "".join(f"{line}\n" for line in lines))
    return Path(path)
