"""`facex jhmfr-pku`: rank-1 identification of masked faces on PKU-Masked-Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from facex.errors import ConfigError
from facex.files import write_text
from facex.inference.embed import pick_device, plain_nets
from facex.train.load_run import load_run
from facex_jhmfr.detect import Detector
from facex_jhmfr.finetune import JHMFR
from facex_jhmfr.pku import PkuFaces, identify_pku, read_pku
from facex_jhmfr.protocol import embed_inputs, load_input, read_flags

RULES = ("by_folder", "all_masked", "holistic", "both")


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex jhmfr-pku", description=__doc__)
    add: Any = parser.add_argument
    add("--checkpoint", type=str, required=True, help="a run folder, or one of its checkpoints")
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
    add("--norm", type=str, default="train", choices=["eval", "train"], help="pixels over 128 or 127.5")
    add("--no-flip", action="store_true", help="do not add the mirrored view")
    add("--batch-size", type=int, default=64, help="pictures of one forward pass")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--json", type=str, default=None, help="write JSON to this file; -: to standard output, alone")
    return parser


def main(argv: list[str]) -> int:
    """Print the rates as a table or as JSON."""
    options = build_parser().parse_args(argv)
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: at least one picture is needed")
    faces = read_pku(options.root)
    numbers = identify_pku(embed(options, faces), faces).summary()
    text = json.dumps(numbers, indent=2)
    if options.json == "-":
        print(text)
        return 0
    if options.json is not None:
        write_text(options.json, text + "\n")
    for name, value in numbers.items():
        print(f"{name:<10} {value:.4f}" if isinstance(value, float) else f"{name:<10} {value}")
    return 0


def embed(options: Any, faces: PkuFaces) -> np.ndarray:
    """Unit vectors float32 [n, D]."""
    method, device = load_run(options.checkpoint).method, pick_device(options.device)
    if options.flags == "both" and isinstance(method, JHMFR):
        method.inference_flag = "both"
    nets = {name: net.to(device) for name, net in plain_nets(method).items()}
    flags, parts = choose_flags(options, faces), []
    for start in range(0, len(faces.names), options.batch_size):
        stop = start + options.batch_size
        x = load_input([Path(options.root) / name for name in faces.names[start:stop]], options.norm).to(device)
        parts.append(embed_inputs(method, nets, x, flags[start:stop], "none" if options.no_flip else "tensor"))
    return np.concatenate(parts)


def choose_flags(options: Any, faces: PkuFaces) -> np.ndarray:
    """bool [n], the flag of each face."""
    if options.flags in RULES:
        constant = np.full(len(faces.names), options.flags == "all_masked")
        return faces.masked if options.flags == "by_folder" else constant
    if Path(options.flags).is_dir():
        return Detector(options.flags, options.device).files(options.root, faces.names)
    return read_flags(options.flags, faces.names)
