"""`facex sarface-tinyface`: identification of low-resolution faces, on whole pictures and under the policy's masks.

facex sarface-tinyface --checkpoint runs/sarface --images tinyface_aligned_112 --probes probe_img_ID_pairs.mat \\
    --gallery gallery_match_img_ID_pairs.mat --distractors tinyface_aligned_112/Gallery_Distractor
"""

from __future__ import annotations

import json
from typing import Any

from jsonargparse import ArgumentParser

from facex.errors import ConfigError
from facex.files import write_json


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(
        prog="facex sarface-tinyface",
        description="Rank 1, 5 and 20 of TinyFace's closed set, as AdaFace counts it, for any run; a run of SARFace with "
        "eval_input both has a row for its masks, too.",
    )
    add: Any = parser.add_argument
    add("--checkpoint", type=str, required=True, help="run folder or checkpoint folder")
    add(
        "--images",
        type=str,
        required=True,
        help="folder of the aligned crops: Probe and Gallery_Match in it, or all of them",
    )
    add(
        "--probes",
        type=str,
        required=True,
        help="list of the probes: lines `name person`, or TinyFace's .mat (needs SciPy)",
    )
    add("--gallery", type=str, required=True, help="list of their mates, likewise")
    add("--distractors", type=str, default=None, help="folder of gallery faces that are nobody's mate")
    add(
        "--options",
        type=dict[str, Any],
        default={},
        help='constructor arguments in place of the run\'s: {"eval_input": "both"}',
    )
    add("--no-flip", action="store_true", help="do not fuse the mirrored view")
    add("--batch-size", type=int, default=64, help="pictures of one forward pass")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--json", type=str, default=None, help="file for the numbers; - prints them alone on stdout")
    return parser


def main(argv: list[str]) -> int:
    """Print the rates, a row for the network and one for each of its views."""
    o = build_parser().parse_args(argv)
    if o.batch_size < 1:
        raise ConfigError(f"--batch-size {o.batch_size}: at least one picture is needed")
    from facex.inference.embed import pick_device, plain_nets
    from facex.train.load_run import load_run
    from facex_sarface.tinyface import identify, read_tinyface

    faces = read_tinyface(o.probes, o.gallery, o.distractors, o.images)
    method, device = load_run(o.checkpoint, options=o.options).method, pick_device(o.device)
    nets = {name: net.to(device) for name, net in plain_nets(method).items()}
    views = {"trained": method, **{f"trained {name}": view for name, view in method.views().items()}}
    rates = {name: identify(view, nets, faces, device, o.batch_size, not o.no_flip) for name, view in views.items()}
    numbers: dict[str, Any] = {name: {f"rank-{k}": rate for k, rate in found.items()} for name, found in rates.items()}
    numbers |= {"probes": len(faces.probes), "gallery": len(faces.gallery), "distractors": faces.distractors}
    if o.json == "-":
        print(json.dumps(numbers, indent=2))
        return 0
    if o.json is not None:
        write_json(o.json, numbers)
    for name, found in rates.items():
        print("  ".join([f"{name:<16}", *(f"rank-{k} {rate:.4f}" for k, rate in found.items())]))
    print(
        f"{len(faces.probes)} probes, {len(faces.gallery)} faces in the gallery, {faces.distractors} of them distractors"
    )
    return 0
