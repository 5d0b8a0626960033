"""`facex extract`: embeddings and magnitudes of a data set's pictures, as .npy or as MagFace's text rows."""

from __future__ import annotations

import time
from typing import Any

from jsonargparse import ArgumentParser

from facex.errors import ConfigError


def build_parser() -> ArgumentParser:
    """Options of `facex extract`."""
    parser = ArgumentParser(prog="facex extract", description="Embeddings and magnitudes of pictures.")
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--checkpoint", type=str, required=True, help="run folder or checkpoint folder")
    parser.add_argument("--data", type=str, required=True, help="RecordIO folder or .rec, image folder, or list file")
    parser.add_argument(
        "--out", type=str, default=None, help="FILE.npy: features; FILE.magnitude.npy and names beside it"
    )
    parser.add_argument("--text", type=str, default=None, help="text rows 'name v0 v1 ... ', as MagFace's gen_feat.py")
    parser.add_argument("--best", action="store_true", help="the best checkpoint of the run, not the last")
    parser.add_argument("--step", type=int, default=None, help="the checkpoint of this step")
    parser.add_argument(
        "--options",
        type=dict[str, Any],
        default={},
        help="constructor arguments of the checkpoint's method in place of the run's (how faces are embedded), as JSON",
    )
    parser.add_argument(
        "--flags",
        type=str,
        default=None,
        help="who wears a mask, for methods that ask: a .npy with 0 or 1 for each picture in order, or lines `name flag`",
    )
    parser.add_argument("--flip", action="store_true", help="fuse the mirrored view, as the method does")
    parser.add_argument(
        "--size", type=int, nargs=2, default=None, metavar=("H", "W"), help="resize pictures to this size"
    )
    parser.add_argument(
        "--on-error", choices=["raise", "grey"], default="raise", help="for pictures that do not decode"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="pictures of one forward pass")
    parser.add_argument("--threads", type=int, default=None, help="decoding threads")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def main(argv: list[str]) -> int:
    """Write what was asked for and say what; returns the exit code 0."""
    options = build_parser().parse_args(argv)
    if (options.out is None) == (options.text is None):
        raise ConfigError("give either --out FILE.npy or --text FILE")
    if options.best and options.step is not None:
        raise ConfigError("--best and --step N exclude each other: which checkpoint is meant?")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: at least one picture is needed")

    from facex.inference.embed import pick_device, plain_nets
    from facex.inference.extract import embeddings, mask_flags, open_faces, write_npy, write_rows
    from facex.train.load_run import load_run

    which: str | int = options.step if options.step is not None else "best" if options.best else "last"
    run = load_run(options.checkpoint, which, options.options)
    device = pick_device(options.device)
    nets = {name: net.to(device) for name, net in plain_nets(run.method).items()}
    size = tuple(options.size) if options.size else None
    faces = open_faces(options.data, run.method.input.color, size, options.on_error, options.threads)
    flags = None if options.flags is None else mask_flags(options.flags, faces, options.data)
    start = time.perf_counter()
    batches = embeddings(run.method, nets, faces, device, options.batch_size, options.flip, flags)
    if options.out:
        written = write_npy(options.out, faces, batches)
    else:
        written = [write_rows(options.text, faces, batches)]
    seconds = time.perf_counter() - start
    count = len(faces.dataset)
    bad = f", {faces.dataset.error_count} did not decode" if faces.dataset.error_count else ""
    print(f"{count} pictures{bad}, {count / seconds:.0f} images/s: {', '.join(map(str, written))}")
    return 0
