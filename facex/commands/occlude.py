"""`facex occlude INPUT --preview OUT`: a contact sheet of occluded pictures and their masks."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse import ArgumentParser


def build_parser() -> ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(
        prog="facex occlude",
        description="Occlude pictures of a data set as training would, and draw a contact sheet of them and their masks.",
    )
    add = parser.add_argument
    add("input", type=str, help="a data set: RecordIO, image folder or list, facex synth's output included")
    add("--preview", type=str, required=True, help="contact sheet to write, .png or .jpg")
    add(
        "--policy",
        type=str | dict[str, float],
        default="uniform",
        help="ms1m, casia, realistic, uniform, or probabilities: '{glasses: 0.5, hand: 0.5}'",
    )
    add("--assets", type=dict[str, str | list[str]] | None, default=None, help="folders of RGBA PNG files by occluder")
    add(
        "--masks",
        type=Literal["policy", "3d"],
        default="policy",
        help="3d: face masks alone, on every picture, placed by the set's landmarks where it has them",
    )
    add("--count", type=int, default=48, help="pictures on the sheet")
    add("--columns", type=int, default=8, help="pictures in a row of the sheet")
    add("--size", type=int, default=112, help="pixels a side to which pictures of other sizes are brought")
    add("--seed", type=int, default=0, help="another seed draws other pictures and occluders")
    return parser


def main(argv: list[str]) -> int:
    """Run the command; prints how much each occluder covers."""
    o = build_parser().parse_args(argv)
    from facex.data.draws import Draws
    from facex.data.occluders.sheet import read_batch, write_sheet
    from facex.errors import ConfigError

    if o.count < 1 or o.columns < 1:
        raise ConfigError(f"--count {o.count} and --columns {o.columns} must be at least 1")
    transform = _transform(o)
    batch = read_batch(o.input, o.count, o.seed, o.size, landmarks=o.masks == "3d")
    done = transform(batch, Draws(o.seed, 0, batch.position))
    write_sheet(o.preview, batch, done, o.columns)
    for line in _summary(done):
        print(line)
    print(f"contact sheet: {o.preview}")
    return 0


def _transform(o: Any) -> Any:
    if o.masks == "3d":
        from facex.data.masking import MaskFaces

        folder = (o.assets or {}).get("mask")
        return MaskFaces(1.0, textures=folder)
    from facex.data.occluders import Occlude

    return Occlude(o.policy, o.assets)


def _summary(batch: Any) -> list[str]:
    """A line an occluder: how many pictures it took and how much of them it covers."""
    from facex.data.occluders import OCCLUDERS

    area = (batch["occlusion"] > 0).flatten(1).float().mean(1)
    if "occluder" not in batch:
        return [f"mask: {len(area)} pictures, {100 * area.mean():.1f} % of them covered"]
    lines = []
    for code, name in enumerate(OCCLUDERS):
        rows = batch["occluder"] == code
        if rows.any():
            lines.append(f"{name}: {int(rows.sum())} pictures, {100 * area[rows].mean():.1f} % of them covered")
    return lines
