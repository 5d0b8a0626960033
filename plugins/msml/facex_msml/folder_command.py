"""`facex msml-folder`: an output folder of the published MSML code to a facex run, and back.

facex msml-folder out/arc18_msml_1 runs/arc18_msml    backbone.pth and config.yaml -> facex run
facex msml-folder runs/arc18_msml out/arc18_msml_2    facex run -> backbone.pth, config.yaml, training.log
"""

from __future__ import annotations

import argparse
from pathlib import Path

from facex.errors import CheckpointError


def main(argv: list[str]) -> int:
    """Convert in the direction that the first folder says, and report."""
    options = build_parser().parse_args(argv)
    source, output = Path(options.input), Path(options.output)
    from facex_msml import folder

    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder; a single backbone.pth is for facex convert")
    if (source / "checkpoints").is_dir() or (source / "method.safetensors").is_file():
        numbers = (options.batch_size, options.prefix, options.number, options.num_classes)
        print(folder.export_folder(source, output, options.dataset, *numbers))
    else:
        print(folder.import_folder(source, output, skip=not options.no_skip))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="facex msml-folder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="output folder of the published code, or facex run")
    parser.add_argument("output", help="new folder")
    parser.add_argument("--no-skip", action="store_true", help="trained by code from before 14 January 2022: z = y + m")
    parser.add_argument("--dataset", choices=["ms1m-retinaface-t2", "webface"], help="the identities, in their words")
    parser.add_argument("--num-classes", type=int, help="its number of identities, where their config.py was changed")
    parser.add_argument("--batch-size", type=int, default=128, help="batch_size of one GPU, for config.yaml")
    parser.add_argument("--prefix", default="facex", help="output_prefix, for config.yaml")
    parser.add_argument("--number", type=int, default=1, help="exp_id, for config.yaml")
    return parser
