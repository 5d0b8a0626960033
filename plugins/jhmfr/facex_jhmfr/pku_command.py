"""`facex jhmfr-pku`: rank-1 identification of masked faces on PKU-Masked-Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from facex_jhmfr import file_options
from facex_jhmfr.pku import PkuFaces, identify_pku, read_pku
from facex_jhmfr.protocol import embed_inputs, load_input

RULES = ("by_folder", "all_masked", "holistic", "both")


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex jhmfr-pku", description=__doc__)
    add: Any = parser.add_argument
    add(
        "--root", type=str, required=True, help="folder with PERSON_0 and PERSON_1, aligned pictures K_POSE.png in them"
    )
    add(
        "--flags",
        type=str,
        default="by_folder",
        help="flags given to the network: by_folder (probes masked), all_masked, holistic, both (cosines are the mean "
        "under either), a file with a line `name flag` for each picture, or a detector's run folder",
    )
    add("--no-flip", action="store_true", help="do not add the mirrored view")
    file_options.add_network(add, norm="train")
    return parser


def main(argv: list[str]) -> int:
    """Print the rates as a table or as JSON."""
    options = build_parser().parse_args(argv)
    faces = read_pku(options.root)
    file_options.show(identify_pku(embed(options, faces), faces).summary(), options)
    return 0


def embed(options: Any, faces: PkuFaces) -> np.ndarray:
    """Unit vectors float32 [n, D]."""
    method, nets, device = file_options.load_network(options)
    flags, parts = choose_flags(options, faces), []
    for start in range(0, len(faces.names), options.batch_size):
        stop = start + options.batch_size
        paths = [Path(options.root) / name for name in faces.names[start:stop]]
        x = load_input(paths, options.norm, method.input).to(device)
        parts.append(embed_inputs(method, nets, x, flags[start:stop], "none" if options.no_flip else "tensor"))
    return np.concatenate(parts)


def choose_flags(options: Any, faces: PkuFaces) -> np.ndarray:
    """bool [n], the flag of each face."""
    if options.flags == "by_folder":
        return faces.masked
    if options.flags in RULES:
        return np.full(len(faces.names), options.flags == "all_masked")
    return file_options.flags_from(options, faces.names, RULES)
