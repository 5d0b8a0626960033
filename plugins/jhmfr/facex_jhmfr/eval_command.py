"""`facex jhmfr-eval`: verify pair lists on folders of pictures (SMFRD, RMFVD, LFW, ...), mask flags included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from facex.errors import ConfigError, VerificationSetError
from facex.files import write_text
from facex.inference.embed import pick_device, plain_nets
from facex.train.load_run import load_run
from facex_jhmfr.detect import Detector
from facex_jhmfr.finetune import JHMFR
from facex_jhmfr.pairs import Pair, parse_pairs
from facex_jhmfr.protocol import Protocol, Verified, distinct_files, read_flags, verify_files

RULES = ("all_masked", "by_name", "holistic")


def main(argv: list[str]) -> int:
    """Print the accuracies, over all pairs and by condition, as a table or as JSON."""
    options = build_parser().parse_args(argv)
    if options.batch_size < 1 or options.folds < 1:
        raise ConfigError(f"--batch-size {options.batch_size} and --folds {options.folds} must be at least 1")
    pairs = read_list(Path(options.pairs), options.set)
    found = evaluate(options, pairs)
    numbers = as_numbers(found, len(pairs))
    text = json.dumps(numbers, indent=2)
    if options.json == "-":
        print(text)
        return 0
    if options.json is not None:
        write_text(options.json, text + "\n")
    for name, value in numbers.items():
        print(f"{name:<14} {value:.4f}" if isinstance(value, float) else f"{name:<14} {value}")
    return 0


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex jhmfr-eval", description=__doc__)
    parser.add_argument("--checkpoint", type=str, required=True, help="a run folder, or one of its checkpoints")
    parser.add_argument("--pairs", type=str, required=True, help="the pair list")
    parser.add_argument("--root", type=str, required=True, help="folder of the pictures that the list names")
    parser.add_argument(
        "--set", type=str, default="LFW", help="form of the list: LFW, CFPFP, AgeDB30, RMFVD, CALFW, ..."
    )
    parser.add_argument(
        "--kind", type=str, default="holistic", choices=["holistic", "smfrd", "rmfvd"], help="which pictures show masks"
    )
    parser.add_argument(
        "--flags",
        type=str,
        default="all_masked",
        help="flags given to the network: all_masked (JHMFR: every picture of a masked set), by_name, holistic, both "
        "(cosines are the mean under either), a file with a line `name flag` for each picture, or a detector's run folder",
    )
    parser.add_argument("--folds", type=int, default=5, help="folds of the accuracy (JHMFR 5, others 10)")
    parser.add_argument("--norm", type=str, default="eval", choices=["eval", "train"], help="pixels over 128 or 127.5")
    parser.add_argument(
        "--flip", type=str, default="none", choices=["none", "tensor", "8bit"], help="the mirrored view"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="pictures of one forward pass")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--json", type=str, default=None, help="write JSON to this file; -: to standard output, alone")
    return parser


def read_list(path: Path, form: str) -> list[Pair]:
    """The pairs of a list file; VerificationSetError when it cannot be read, or has none."""
    if path.suffix.lower() == ".mat":
        raise VerificationSetError(
            f"{path}: MATLAB's lists are not read; AgeDB-30's pairs as pictures are insightface's agedb_30.bin (facex eval "
            "--bin), as a list they are lines `file file 0 or 1` (--set AgeDB30)"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationSetError(f"{path}: cannot be read as a pair list: {error}") from error
    pairs = parse_pairs(form, text, str(path))
    if not pairs:
        raise VerificationSetError(f"{path}: holds no pairs")
    return pairs


def evaluate(options: Any, pairs: list[Pair]) -> Verified:
    """Embed and verify on one device."""
    method, device = load_run(options.checkpoint).method, pick_device(options.device)
    if options.flags == "both" and isinstance(method, JHMFR):
        method.inference_flag = "both"
    nets = {name: net.to(device) for name, net in plain_nets(method).items()}
    given = given_flags(options, distinct_files(pairs))
    rule: Any = options.flags if options.flags in RULES else "by_name"
    protocol = Protocol(options.folds, options.norm, options.flip, rule, options.batch_size)
    return verify_files(method, nets, options.root, pairs, options.kind, protocol, given, device)


def given_flags(options: Any, names: list[str]) -> np.ndarray | None:
    """bool [n] from a file or a detector; None where a rule makes the flags, or both of them are used."""
    if options.flags in RULES or options.flags == "both":
        return None
    if Path(options.flags).is_dir():
        return Detector(options.flags, options.device).files(options.root, names)
    return read_flags(options.flags, names)


def as_numbers(found: Verified, pairs: int) -> dict[str, Any]:
    """Plain numbers, accuracy first."""
    numbers: dict[str, Any] = {"accuracy": found.pairs.accuracy, "std": found.pairs.std, "pairs": pairs}
    numbers |= {f"accuracy {name}": result.accuracy for name, result in found.conditions.items()}
    return numbers | {"pictures": len(found.flags), "flagged": int(found.flags.sum())}
