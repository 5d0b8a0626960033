"""`facex sarface-distract`: verification pairs before misleading backgrounds, from an ordinary `.bin` set.

facex sarface-distract runs/demo-data/val.bin distracted.bin                rendered faces: label maps of the renderer
facex sarface-distract lfw.bin lfw_distracted.bin --parser runs/parser      others: label maps of a face parser
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from facex.errors import ConfigError


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(
        prog="facex sarface-distract",
        description="Paint the backgrounds of verification pairs with textures that mislead: one texture behind two people, "
        "two textures behind one person, out of the pool that facex_sarface.textures.PaintTextures paints training pictures "
        "with.",
    )
    add: Any = parser.add_argument
    add("bin", type=str, help="verification set, aligned square crops")
    add("out", type=str, help=".bin file to write")
    add("--parser", type=str, default=None, help="run or file of a face parser; unset: the renderer's own label maps")
    add("--textures", type=int, default=400, help="textures in the pool, as in training")
    add("--labels", type=int, nargs="+", default=[0], help="CelebAMask-HQ's labels that are painted (0: background)")
    add("--seed", type=int, default=0, help="another seed draws other textures")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...: of the face parser")
    return parser


def main(argv: list[str]) -> int:
    """Write the set and say where it is."""
    o = build_parser().parse_args(argv)
    if Path(o.out).suffix != ".bin":
        raise ConfigError(f"{o.out}: a verification set is a .bin file")
    if Path(o.out).resolve() == Path(o.bin).resolve():
        raise ConfigError(f"{o.out} is the set that is read: name another file to write")
    from facex.data.verification import load_bin, write_bin
    from facex.inference.embed import pick_device
    from facex_sarface.distracted_pairs import distract, label_maps
    from facex_sarface.textures import PaintTextures

    PaintTextures(textures=o.textures, labels=o.labels)  # checks both
    one = load_bin(o.bin)
    made = distract(
        one, label_maps(one, o.parser, pick_device(o.device)), Path(o.out).stem, o.textures, o.labels, o.seed
    )
    write_bin(o.out, made.entries, made.issame.tolist())
    print(f"{o.out}: {len(made)} pairs before misleading backgrounds")
    return 0
