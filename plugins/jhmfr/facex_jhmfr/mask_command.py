"""`facex mask-faces`: the masked copy of a data set, which `MaskedCopies` reads, or masked verification pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from facex.errors import ConfigError

if TYPE_CHECKING:
    from facex.data.masking import FaceMask


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(
        prog="facex mask-faces",
        description="Put a mask on every face of a RecordIO set or an image folder; the copy keeps keys and file names. Of a "
        "verification set (.bin) make NAME-H-M.bin and NAME-M-M.bin (the second, or both faces of a pair masked) with their "
        "flags beside them, masked faces as PNG.",
    )
    add: Any = parser.add_argument
    add("source", type=str, help="RecordIO folder or .rec, image folder (a class a subfolder), or a .bin set")
    add("out", type=str, help="new folder for the copy")
    add("--seed", type=int, default=0, help="another seed draws other masks")
    add(
        "--templates",
        type=str,
        nargs="+",
        default=None,
        help="kinds of masks: surgical, cloth, cup, folded, duckbill (default: all)",
    )
    add("--colored", type=float, default=None, help="share of masks of one colour; the others are textured")
    add("--textures", type=str, default=None, help="folder of RGBA PNG files in place of the built-in textures")
    add("--quality", type=int, default=95, help="JPEG quality of a copy; .png and .bmp files become PNG")
    add(
        "--threads", type=int, default=0, help="threads; 0: the cores of this machine. The result does not depend on it"
    )
    add(
        "--on-error",
        choices=["skip", "raise"],
        default="skip",
        help="faces that cannot be masked are left out and counted, or stop the command",
    )
    return parser


class Rate(TextColumn):
    """Faces a second so far."""

    def render(self, task: Task) -> Text:
        """As text."""
        return Text(f"{task.finished_speed or task.speed or 0:.0f} faces/s")


def main(argv: list[str]) -> int:
    """Write the copy; prints how many faces it has, and how many were left out and why."""
    options = build_parser().parse_args(argv)
    if not 1 <= options.quality <= 100 or options.threads < 0:
        raise ConfigError(f"--quality {options.quality} lies in 1..100, --threads {options.threads} is not negative")
    from facex.data.masking import FaceMask
    from facex.data.occluders.assets import load_folder
    from facex_jhmfr.mask_writer import MaskOptions, write_masked_copy

    textures = None if options.textures is None else load_folder(options.textures)
    masks = FaceMask(textures, options.templates, options.colored)
    if Path(options.source).suffix == ".bin":
        return _mask_pairs(options, masks)
    chosen = MaskOptions(options.seed, options.quality, options.threads, options.on_error)
    columns = (TextColumn("masking"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("masking", total=None)
        report = write_masked_copy(
            options.source,
            options.out,
            masks,
            chosen,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"{options.out}: {report.written} masked faces, {report.left_out} left out")
    for message in report.messages:
        print(f"  {message}")
    return 0


def _mask_pairs(options: Any, masks: FaceMask) -> int:
    from facex.data.verification import load_bin
    from facex_jhmfr.mask_writer import write_masked_sets

    for path in write_masked_sets(load_bin(options.source), options.out, options.seed, masks):
        print(path)
    return 0
