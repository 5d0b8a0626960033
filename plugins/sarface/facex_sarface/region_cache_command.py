"""`facex sarface-regions`: a data set's label maps, made once by the face parser, so that training runs none.

facex sarface-regions --data faces --parser runs/parser            faces/parsing.rec; train with method.parsing data
facex sarface-regions --data faces --parser swiftl1.pth out        a data set of links to the pictures, with the maps
"""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser

from facex.errors import ConfigError
from facex.launchers import started_ranks
from facex_sarface.parser_command import add_parser_options, check_batch_size
from facex_sarface.parser_progress import progress_bar


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(
        prog="facex sarface-regions",
        description="Write the label maps of a data set beside its pictures. SARFace reads them with `method.parsing data` and "
        "needs no parser while it trains. What was interrupted goes on when the command is given again.",
    )
    add: Any = parser.add_argument
    add("out", type=str, nargs="?", default=None, help="folder for a data set with these maps, the pictures linked (default: "
        "beside the pictures)")  # fmt: skip
    add("--data", type=str, required=True, help="RecordIO folder or .rec, image folder or list")
    add("--parser", type=str, required=True, help="run of FaceParser or SARFace, the parser's .pth, or a SARFace .ckpt")
    add_parser_options(add)
    add(
        "--size",
        type=int | None,
        default=None,
        help="side that pictures are brought to first: data.size of the training",
    )
    add("--shard", type=str, default=None, help="i/n: write the i-th (from 0) of n shares only, beside other processes; then "
        "once more without it, to join them")  # fmt: skip
    add("--part-size", type=int, default=8192, help="pictures of a part, the unit that an interrupted run keeps")
    add(
        "--on-error",
        choices=["raise", "skip", "grey"],
        default="raise",
        help="what to do with a picture that does not decode",
    )
    add("--overwrite", action="store_true", help="replace label maps that are there")
    return parser


def main(argv: list[str]) -> int:
    """Write the maps and print where they are."""
    o = build_parser().parse_args(argv)
    check_batch_size(o.batch_size)
    if (ranks := started_ranks()) > 1:
        raise ConfigError(
            f"a launcher has started {ranks} processes: start one for each shard instead (--shard 0/{ranks} ...)"
        )
    from facex.inference.embed import pick_device
    from facex_sarface.parser_loading import load_parser
    from facex_sarface.region_cache import CacheOptions, write_region_cache

    how = CacheOptions(o.size, o.batch_size, o.part_size, shard_of(o.shard), o.overwrite, o.on_error)
    parser = load_parser(o.parser, o.parser_size, o.parser_input, o.table).to(pick_device(o.device))
    with progress_bar("parsing") as bar:
        task = bar.add_task("parsing", total=None)
        written = write_region_cache(
            o.data, parser, o.out, how, lambda done, total: bar.update(task, completed=done, total=total)
        )
    print(f"{written}: {'this share of the parts' if how.shard else 'label maps; train with --method.parsing data'}")
    return 0


def shard_of(text: str | None) -> tuple[int, int] | None:
    """ "1/4" as (1, 4); ConfigError for another form."""
    if text is None:
        return None
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal()):
        raise ConfigError(f"--shard {text}: expected i/n, as 0/4")
    return int(first), int(second)
