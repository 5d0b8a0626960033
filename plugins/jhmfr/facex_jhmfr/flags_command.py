"""`facex jhmfr-flags`: let a mask detector write the flags of verification sets or of picture files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jsonargparse import ArgumentParser

from facex.errors import ConfigError, DataError
from facex.files import write_text

if TYPE_CHECKING:
    from facex_jhmfr.detect import Detector

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(
        prog="facex jhmfr-flags",
        description="Write who wears a mask, as a detector sees it: of a .bin set NAME.flags.npy beside it, which every "
        "evaluation reads; of a folder of pictures a file with a line `name flag` for each, for facex jhmfr-eval --flags.",
    )
    add: Any = parser.add_argument
    add("detector", type=str, help="run folder of the method JHMFRDetector")
    add("sources", type=str, nargs="+", help=".bin sets or folders of pictures")
    add("--out", type=str, default=None, help="for one folder: the file to write (default: FOLDER.flags.txt)")
    add("--batch-size", type=int, default=256, help="pictures of one forward pass")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def main(argv: list[str]) -> int:
    """Write the flags and print how many pictures show a mask."""
    options = build_parser().parse_args(argv)
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: at least one picture is needed")
    sources = [Path(source) for source in options.sources]
    if options.out is not None and (len(sources) > 1 or not sources[0].is_dir()):
        raise ConfigError("--out names the file of one folder of pictures")
    from facex_jhmfr.detect import Detector

    detector = Detector(options.detector, options.device, options.batch_size)
    for source in sources:
        written, flags = _of_folder(detector, source, options.out) if source.is_dir() else _of_set(detector, source)
        print(f"{written}: {int(flags.sum())} of {len(flags)} pictures show a mask")
    return 0


def _of_set(detector: Detector, path: Path) -> tuple[Path, np.ndarray]:
    from facex.data.verification import load_bin, write_flags

    flags = detector.set(load_bin(path))
    return write_flags(path, flags), flags


def _of_folder(detector: Detector, root: Path, out: str | None) -> tuple[Path, np.ndarray]:
    names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not names:
        raise DataError(f"{root}: no pictures ({', '.join(SUFFIXES)})")
    flags = detector.files(root, names)
    target = Path(out) if out is not None else root.with_name(root.name + ".flags.txt")
    write_text(target, "".join(f"{name} {int(flag)}\n" for name, flag in zip(names, flags, strict=True)))
    return target, flags
