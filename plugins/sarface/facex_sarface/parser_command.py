"""`facex sarface-parser`: train SARFace's face parser, measure it, and pack the label maps that it learns from.

facex sarface-parser train DATA RUN [options of facex train]    train on a data set with label maps
facex sarface-parser eval RUN DATA                              intersection over union of each class
facex sarface-parser pack PICTURES MAPS OUT --align             CelebAMask-HQ into a data set with label maps
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from facex.errors import ConfigError
from facex_sarface.parser_progress import progress_bar

# What `train` adds to the method's own defaults; options of the command line come later and win.
DEFAULTS = (
    *("--method", "FaceParser", "--trainer.global_batch", "64"),
    *("--optimizer.name", "adamw", "--optimizer.lr", "0.001", "--optimizer.weight_decay", "0.05"),
    *("--schedule.kind", "cosine", "--schedule.warmup_epochs", "1"),
)
EPOCHS = ("--trainer.epochs", "30")


def main(argv: list[str]) -> int:
    """Run the sub-command."""
    parts = {"train": train, "eval": evaluate, "pack": pack}
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        print("Each of them: facex sarface-parser NAME --help")
        return 0
    if argv[0] not in parts:
        raise ConfigError(f"facex sarface-parser {argv[0]}: expected one of {', '.join(parts)}")
    return parts[argv[0]](argv[1:])


def train(argv: list[str]) -> int:
    """`facex train` with the parser's defaults: AdamW 1e-3 with decay 0.05, cosine, flips, 30 epochs of batches of 64."""
    from facex.commands.train import main as run

    if not argv or argv[0] in ("-h", "--help"):
        print("usage: facex sarface-parser train DATA RUN [options of facex train]\n")
        print("DATA: a data set with label maps (facex synth, or facex sarface-parser pack). RUN: folder of the run.")
        print(f"{train.__doc__}\nThe same as: facex train {' '.join((*DEFAULTS, *EPOCHS))} ...")
        print(
            "Sizes: --method.variant l1 (published), l1_tiny or xs; --method.size 128. `facex train --method FaceParser --help`"
        )
        return 0
    return run(train_arguments(argv))


def train_arguments(argv: list[str]) -> list[str]:
    """What `facex train` is told for `DATA RUN [options]`. ConfigError without the two."""
    if len(argv) < 2 or any(word.startswith("-") for word in argv[:2]):
        raise ConfigError(
            "facex sarface-parser train DATA RUN [options]: the data set and the folder of the run come first"
        )
    data, output, *rest = argv
    length = () if any(word.startswith("--trainer.steps") for word in rest) else EPOCHS
    return [*DEFAULTS, *length, "--data.path", data, "--trainer.output", output, *rest]


def evaluate(argv: list[str]) -> int:
    """Print the table of classes, and write the numbers where that was asked for."""
    parser = ArgumentParser(
        prog="facex sarface-parser eval",
        description="Intersection over union of each class between a parser's label maps and the data's.",
    )
    add: Any = parser.add_argument
    add("parser", type=str, help="run of FaceParser or SARFace, the parser's .pth, or a SARFace .ckpt")
    add("data", type=str, help="data set with label maps; with --maps a folder of pictures")
    add("--maps", type=str, default=None, help="folder with their label maps, or with masks of their parts")
    _add_maps_options(add)
    add_parser_options(add)
    add("--json", type=str, default=None, help="write the numbers to this file")
    o = parser.parse_args(argv)
    from facex.files import write_json
    from facex.inference.embed import pick_device
    from facex_sarface.parser_evaluation import evaluate_parser, pairs_of_folders, pairs_of_set
    from facex_sarface.parser_loading import load_parser
    from facex_sarface.parser_scores import scores_table

    check_batch_size(o.batch_size)
    loaded = load_parser(o.parser, o.parser_size, o.parser_input, o.table).to(pick_device(o.device))
    if o.maps is None:
        pairs, total = pairs_of_set(o.data, o.batch_size, o.size)
    else:
        pairs, total = pairs_of_folders(Path(o.data), Path(o.maps), o.numbering, o.on_missing, o.size)
    with progress_bar("parsing") as bar:
        task = bar.add_task("parsing", total=total)
        counts = evaluate_parser(loaded, pairs, total, lambda done, _: bar.update(task, completed=done))
    scores = counts.scores()
    Console(width=100).print(scores_table(scores, f"{loaded.name} on {o.data}: {counts.pictures} pictures"))
    sure = ", ".join(f"{kind} {value:.4f}" for kind, value in counts.confidence.items())
    print(f"mean confidence on the first pictures by --parser-input: {sure}")
    if o.json is not None:
        write_json(o.json, {"parser": loaded.name, "data": o.data, **scores})
    return 0


def pack(argv: list[str]) -> int:
    """Write the set; prints how many pictures it has, and how many were left out and why."""
    parser = ArgumentParser(
        prog="facex sarface-parser pack",
        description="Pictures and their label maps, or masks of their parts (CelebAMask-HQ), into a RecordIO data set.",
    )
    add: Any = parser.add_argument
    add("pictures", type=str, help="folder of pictures (CelebA-HQ-img)")
    add("maps", type=str, help="folder of label maps 27.png, or of masks 00027_hair.png (CelebAMask-HQ-mask-anno)")
    add("out", type=str, help="folder of the data set")
    add("--align", action="store_true", help="align the faces to the crop that recognisers read, by their labels")
    add("--held-out", type=float, default=0.0, help="share of the pictures for a second set, OUT/held_out")
    _add_maps_options(add)
    add("--quality", type=int, default=95, help="JPEG quality")
    add("--threads", type=int, default=0, help="threads that read and encode; 0: all cores")
    o = parser.parse_args(argv)
    from facex_sarface.celeba_pack import LabelledPackOptions, pack_labelled

    size = 112 if o.size is None else o.size
    how = LabelledPackOptions(size, o.align, o.numbering, o.on_missing, o.held_out, o.quality, o.threads)
    with progress_bar("packing") as bar:
        task = bar.add_task("packing", total=None)
        report = pack_labelled(
            Path(o.pictures),
            Path(o.maps),
            Path(o.out),
            how,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"{o.out}: {report.written} pictures, {report.held_out} held out, {report.left_out} left out")
    for message in report.messages:
        print(f"  {message}")
    return 0


def _add_maps_options(add: Any) -> None:
    from facex_sarface.celeba_masks import NUMBERINGS

    add("--size", type=int | None, default=None, help="side that pictures are brought to (pack: 112 if unset)")
    add("--numbering", choices=list(NUMBERINGS), default="celebamask", help="how classes of label maps are numbered")
    add(
        "--on-missing",
        choices=["raise", "skip"],
        default="raise",
        help="pictures without labels: stop, or leave them out",
    )


def add_parser_options(add: Any) -> None:
    """Options of how a parser reads pictures; unset: as its run says, for a file as published."""
    add(
        "--parser-size",
        type=int | None,
        default=None,
        help="side of the pictures that the parser reads (a file's: 128)",
    )
    add("--parser-input", choices=["official", "rgb_imagenet"], default=None, help="what it reads (a file's: official)")
    add("--table", type=list[int] | None, default=None, help="the label of each class of a parser with other classes")
    add("--batch-size", type=int, default=64, help="pictures of one forward pass")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")


def check_batch_size(value: int) -> None:
    """ConfigError for a batch without pictures."""
    if value < 1:
        raise ConfigError(f"--batch-size {value}: at least one picture is needed")
