"""`facex synth OUT`: render a face data set with landmarks, parsing maps and occlusion masks."""

from __future__ import annotations

import time
from typing import Literal

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


def build_parser() -> ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(
        prog="facex synth",
        description="Render faces: a RecordIO training set with every label, and verification pairs of other people.",
    )
    add = parser.add_argument
    add("out", type=str, help="folder for train.rec, its companion fields, and val.bin")
    add("--identities", type=int, default=600, help="people in the training set")
    add("--images-per-identity", type=int, default=20, help="pictures of each")
    add("--seed", type=int, default=0, help="another seed is another population")
    add("--size", type=int, default=112, help="width and height in pixels")
    add("--split", type=Literal["train", "val", "both"], default="both", help="training set, verification set, or both")
    add("--pairs", type=int, default=600, help="verification pairs, a multiple of 20; half are genuine, in ten folds")
    add("--val-identities", type=int, default=160, help="people in the verification set; none is in the training set")
    add(
        "--fields",
        type=list[str],
        default=["landmarks5", "landmarks68", "parsing", "occlusion", "flags"],
        help="labels to write beside the pictures",
    )
    add("--workers", type=int, default=0, help="processes that render; 0: all cores. The result does not depend on it")
    add(
        "--preview",
        type=str | None,
        default=None,
        help="also write a contact sheet of pictures and labels to this file",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command; prints what was written."""
    o = build_parser().parse_args(argv)
    from facex.synth.dataset import SynthOptions, write_dataset
    from facex.synth.preview import write_preview
    from facex.synth.renderer import Renderer

    options = SynthOptions(
        o.identities, o.images_per_identity, o.seed, o.size, o.split, o.pairs, o.val_identities, tuple(o.fields)
    )
    start = time.perf_counter()
    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("rendering", total=None)
        report = write_dataset(
            o.out, options, o.workers, lambda done, total: bar.update(task, completed=done, total=total)
        )
    seconds = time.perf_counter() - start
    what = f"{report.images} training images of {o.identities if report.images else 0} people, {report.pairs} verification pairs"
    rate = (report.images + 2 * report.pairs) / max(seconds, 1e-6)
    print(
        f"{report.folder}: {what} "
        + ("(there already)" if report.reused else f"in {seconds:.1f} s, {rate:.0f} images/s")
    )
    if o.preview is not None:
        write_preview(o.preview, Renderer(o.seed, o.size), min(6, max(1, o.identities)))
        print(f"contact sheet: {o.preview}")
    return 0
