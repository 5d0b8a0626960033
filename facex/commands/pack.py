"""`facex pack SRC OUT`: an image folder or a list into a RecordIO training set."""

from __future__ import annotations

from typing import Literal

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from facex.errors import ConfigError


def build_parser() -> ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(prog="facex pack", description="Pack image folders or lists into RecordIO.")
    add = parser.add_argument
    add("source", type=str, help="image folder (a class a subfolder), .lst list, or a list of 'path 0 label 0' lines")
    add("out", type=str, help="folder for train.rec, train.idx, property and facex.json")
    add(
        "--size",
        type=list[int] | int | None,
        default=None,
        help="resize to HEIGHT,WIDTH or a square; unset: as they are",
    )
    add("--encoding", type=Literal["keep", "jpg", "png"], default="keep", help="keep the files' bytes, or encode anew")
    add("--quality", type=int, default=95, help="JPEG quality of pictures that are encoded")
    add(
        "--layout",
        type=Literal["insightface", "plain"],
        default="insightface",
        help="with identity records, or images only",
    )
    add("--root", type=str | None, default=None, help="folder of a list's relative paths")
    add("--threads", type=int, default=0, help="threads that read and encode; 0: all cores")
    return parser


def _size(value: list[int] | int | None) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = [value, value] if isinstance(value, int) else value
    if len(pair) != 2 or not all(0 < side <= 65500 for side in pair):
        raise ConfigError(f"--size {value}: expected HEIGHT,WIDTH in square brackets, or one number")
    return pair[0], pair[1]


def main(argv: list[str]) -> int:
    """Run the command; prints what was written."""
    options = build_parser().parse_args(argv)
    if not 1 <= options.quality <= 100:
        raise ConfigError(f"--quality {options.quality}: expected 1 to 100")
    from facex.data.pack import PackOptions, pack

    how = PackOptions(_size(options.size), options.encoding, options.quality, options.layout, options.threads)
    columns = (TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("packing", total=None)
        report = pack(
            options.source,
            options.out,
            how,
            root=options.root,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    height, width = report.size
    print(
        f"{report.folder}: {report.images} images of {report.classes} classes, {width}x{height}"
        f" ({report.images - report.encoded} copied, {report.encoded} encoded)"
    )
    return 0
