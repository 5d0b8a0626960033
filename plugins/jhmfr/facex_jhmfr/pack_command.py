"""`facex jhmfr-pack`: a pair list on a folder of pictures (SMFRD, RMFVD, ...) as a verification set, flags beside it.

Training evaluates such a `.bin` set with `evaluation.bins`, and `facex eval` with `--bin`: flags go to the network, and
accuracies come by condition (H-H, H-M, M-M) too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from facex.data.imageio import ImageError, decode_image
from facex.data.verification import write_bin
from facex.errors import ConfigError, VerificationSetError
from facex_jhmfr import file_options
from facex_jhmfr.protocol import distinct_files, mask_flags

RULES = ("by_name", "all_masked", "holistic")


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex jhmfr-pack", description=__doc__)
    add: Any = parser.add_argument
    add("out", type=str, help="the .bin file to write")
    file_options.add_pairs(add)
    add(
        "--flags",
        type=str,
        default="by_name",
        help="flags of the pictures: by_name, all_masked (JHMFR: every picture of a masked set), holistic, a file with a "
        "line `name flag` for each picture, or a detector's run folder",
    )
    file_options.add_device(add)
    return parser


def main(argv: list[str]) -> int:
    """Write the set and say what it holds."""
    options = build_parser().parse_args(argv)
    out = Path(options.out)
    if out.suffix != ".bin" or out.exists():
        raise ConfigError(f"{out}: {'exists already' if out.exists() else 'a verification set is called NAME.bin'}")
    pairs = file_options.read_list(Path(options.pairs), options.set)
    names = distinct_files(pairs)
    flags = choose_flags(options, names)
    pictures = {name: read_picture(Path(options.root) / name) for name in names}
    flagged = dict(zip(names, flags.tolist(), strict=True))
    sides = [name for pair in pairs for name in (pair.first, pair.second)]
    same = [pair.same for pair in pairs]
    write_bin(out, [pictures[name] for name in sides], same, np.array([flagged[name] for name in sides], bool))
    print(f"{out}: {len(pairs)} pairs of {len(names)} pictures, {int(flags.sum())} of them flagged as masked")
    return 0


def choose_flags(options: Any, names: list[str]) -> np.ndarray:
    """bool [n], the flag of each picture."""
    if options.flags in RULES:
        return mask_flags(names, options.kind, options.flags)
    return file_options.flags_from(options, names, RULES)


def read_picture(path: Path) -> bytes:
    """The bytes of a picture file; VerificationSetError for one that is missing or broken."""
    try:
        content = path.read_bytes()
        decode_image(content)
    except OSError as error:
        raise VerificationSetError(f"{path}: cannot be read as a picture: {error.strerror or error}") from error
    except ImageError as error:
        raise VerificationSetError(f"{path}: cannot be read as a picture: {error}") from error
    return content
