"""`facex jhmfr-eval`: verify pair lists on folders of pictures (SMFRD, RMFVD, LFW, ...), mask flags included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from facex.errors import ConfigError
from facex_jhmfr import file_options
from facex_jhmfr.pairs import Pair
from facex_jhmfr.protocol import Protocol, Verified, distinct_files, verify_files

RULES = ("all_masked", "by_name", "holistic", "both")


def main(argv: list[str]) -> int:
    """Print the accuracies, over all pairs and by condition, as a table or as JSON."""
    options = build_parser().parse_args(argv)
    if options.folds < 1:
        raise ConfigError(f"--folds {options.folds} must be at least 1")
    pairs = file_options.read_list(Path(options.pairs), options.set)
    found = evaluate(options, pairs)
    file_options.show(as_numbers(found, len(pairs)), options)
    return 0


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex jhmfr-eval", description=__doc__)
    add: Any = parser.add_argument
    file_options.add_pairs(add)
    add(
        "--flags",
        type=str,
        default="all_masked",
        help="flags given to the network: all_masked (JHMFR: every picture of a masked set), by_name, holistic, both "
        "(cosines are the mean under either), a file with a line `name flag` for each picture, or a detector's run folder",
    )
    add("--folds", type=int, default=5, help="folds of the accuracy (JHMFR 5, others 10)")
    add("--flip", choices=["none", "tensor", "8bit"], default="none", help="the mirrored view (8bit: JHMFR's, cut off)")
    file_options.add_network(add, norm="eval")
    return parser


def evaluate(options: Any, pairs: list[Pair]) -> Verified:
    """Embed and verify on one device."""
    method, nets, device = file_options.load_network(options)
    given = given_flags(options, distinct_files(pairs))
    rule: Any = options.flags if given is None and options.flags != "both" else "by_name"
    protocol = Protocol(options.folds, options.norm, options.flip, rule, options.batch_size)
    return verify_files(method, nets, options.root, pairs, options.kind, protocol, given, device)


def given_flags(options: Any, names: list[str]) -> np.ndarray | None:
    """bool [n] from a file or a detector; None where a rule makes the flags, or both of them are used."""
    return None if options.flags in RULES else file_options.flags_from(options, names, RULES)


def as_numbers(found: Verified, pairs: int) -> dict[str, Any]:
    """Plain numbers, accuracy first."""
    numbers: dict[str, Any] = {"accuracy": found.pairs.accuracy, "std": found.pairs.std, "pairs": pairs}
    numbers |= {f"accuracy {name}": result.accuracy for name, result in found.conditions.items()}
    return numbers | {"pictures": len(found.flags), "flagged": int(found.flags.sum())}
