"""`facex jhmfr-report`: verification of runs on faces without and with masks (H-H, H-M, M-M), and the page that shows it.

Masks are drawn on the pictures of ordinary `.bin` sets: every pair is verified with both faces bare, with the second
masked, and with both masked. Further runs stand beside the checkpoint, and reconstructions of a masked autoencoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from facex.commands.eval_options import networks
from facex.errors import ConfigError

FLAGS = ("given", "holistic", "masked", "both")


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex jhmfr-report", description=__doc__)
    add: Any = parser.add_argument
    add("--checkpoint", type=str, required=True, help="run folder or checkpoint folder")
    add("--name", type=str, default="trained", help="what the report calls the checkpoint's network")
    add("--compare", type=str, nargs="+", default=[], help="further runs on the same faces: [NAME=]FOLDER ...")
    add("--bin", type=str, nargs="+", required=True, help="verification sets of bare faces, aligned 112 x 112 crops")
    add("--sets", type=str, nargs="+", default=[], help="verification sets that are taken as they are, flags included")
    add(
        "--flags",
        type=str,
        default="given",
        help="flags for the network: given (who wears a mask is known), holistic, masked, both, or a detector's run folder",
    )
    add("--mae", type=str, default=None, help="run of a masked autoencoder, whose reconstructions the page shows")
    add("--report", type=str, required=True, help="folder for index.html and results.json")
    add("--no-pictures", action="store_true", help="keep faces out of the report (photos of real people)")
    add("--folds", type=int, default=10, help="folds of the accuracy")
    add("--mask-seed", type=int, default=0, help="another seed draws other masks")
    add("--batch-size", type=int, default=64, help="pictures of one forward pass")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def main(argv: list[str]) -> int:
    """Evaluate, print a table, write the page."""
    options = build_parser().parse_args(argv)
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: at least one picture is needed")
    if options.flags not in FLAGS and not Path(options.flags).is_dir():
        raise ConfigError(
            f"--flags {options.flags}: neither one of {', '.join(FLAGS)} nor the run folder of a mask detector (train "
            "one with configs/jhmfr/detector.yaml)"
        )
    folders = networks(options)
    from facex_jhmfr.conditions_report import evaluate, write

    found = evaluate(options, folders)
    print_table(found.results)
    print(f"report: {write(options, found)}")
    return 0


def print_table(results: Any) -> None:
    """Accuracies, a row a network."""
    from facex.train.progress import format_table

    names = list(next(iter(results.values())))
    rows = [[network, *(f"{by_set[name].pairs.accuracy:.4f}" for name in names)] for network, by_set in results.items()]
    print(format_table([["accuracy", *names], *rows]))
