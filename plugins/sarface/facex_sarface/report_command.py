"""`facex sarface-report`: verification of a SARFace run under its policy's masks, and the page that shows them.

Every set is verified on whole pictures, under the policy's masks, under random masks of the same area, and with one region
removed from every picture. The page shows the numbers, how often each region is kept, what became of some faces, and how
rewards, areas and keep rates went in training.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from facex.errors import ConfigError

if TYPE_CHECKING:
    from facex_sarface.mask_trials import Trials


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex sarface-report", description=__doc__)
    add: Any = parser.add_argument
    add(
        "--checkpoint", type=str, required=True, help="run folder or checkpoint folder of SARFace, with its face parser"
    )
    add("--best", action="store_true", help="the best checkpoint of the run, not the last")
    add("--bin", type=str, nargs="+", required=True, help="verification sets: .bin files or memory-mapped folders")
    add("--report", type=str, required=True, help="folder for index.html and results.json")
    add("--draws", type=int, default=5, help="random masks of each picture")
    add("--mask-seed", type=int, default=0, help="another seed draws other random masks")
    add("--ablation", action=argparse.BooleanOptionalAction, default=True, help="also remove each region always")
    add("--pictures", action="store_true", help="show faces that facex did not render, too")
    add("--no-pictures", action="store_true", help="keep faces out of the report (photos of real people)")
    add("--no-flip", action="store_true", help="do not fuse the mirrored view")
    add("--folds", type=int, default=10, help="folds of the accuracy")
    add("--batch-size", type=int, default=64, help="pictures of one forward pass")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def main(argv: list[str]) -> int:
    """Evaluate, print tables, write the page."""
    options = build_parser().parse_args(argv)
    if options.batch_size < 1 or options.draws < 1:
        raise ConfigError("--batch-size and --draws must be at least 1")
    if options.pictures and options.no_pictures:
        raise ConfigError("--pictures and --no-pictures exclude each other")
    from facex_sarface.masks_report import evaluate, write

    found = evaluate(options)
    print_tables(found.trials)
    print(f"report: {write(options, found)}")
    return 0


def print_tables(trials: list[Trials]) -> None:
    """Accuracy and kept area of every mask, then the keep rates, a column a set."""
    from facex.train.progress import format_table
    from facex_sarface.mask_tables import accuracy_table, keep_table

    for header, rows in (accuracy_table(trials), keep_table(trials)):
        print(format_table([header, *rows]) + "\n")
