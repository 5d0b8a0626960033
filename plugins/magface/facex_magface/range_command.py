"""`facex magface-range`: measure a model's magnitudes over faces and propose MagFace's five numbers for fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from facex.data import open_dataset
from facex.errors import ConfigError, DataError
from facex.files import write_text
from facex.inference.embed import embed_batch, evaluation_mode, pick_device, plain_nets
from facex.methods import Method
from facex_magface.magnitudes import Proposal, propose, summarise


def main(argv: list[str]) -> int:
    """Print the magnitudes and the proposal as a table, or as JSON."""
    options = build_parser().parse_args(argv)
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: at least one picture is needed")
    method = open_model(Path(options.checkpoint), options.method)
    lengths = measure(method, options.data, options.samples, options.batch_size, options.device, options.seed)
    proposal = propose(lengths, options.scale, options.form, options.room)
    summary = summarise(lengths)
    if options.json is None:
        print(as_text(summary, proposal))
        return 0
    text = json.dumps(
        {"magnitudes": summary, "proposal": proposal.as_dict(), "options": proposal.overrides()}, indent=2
    )
    if options.json == "-":
        print(text)
    else:
        write_text(options.json, text + "\n")
        print(as_text(summary, proposal))
    return 0


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex magface-range", description=__doc__)
    parser.add_argument("--checkpoint", type=str, required=True, help="a facex run or checkpoint, or an official file")
    parser.add_argument(
        "--data", type=str, required=True, help="RecordIO folder, image folder or list of aligned faces"
    )
    parser.add_argument(
        "--method", type=str, default=None, help="method of an official file, where its names do not tell"
    )
    parser.add_argument("--samples", type=int, default=10000, help="faces drawn from the data; 0: all of them")
    parser.add_argument("--scale", type=float, default=64.0, help="scale s of the training to come")
    parser.add_argument("--form", type=str, default="arc", choices=["arc", "cos"], help="arc, or cos for Mag-CosFace")
    parser.add_argument(
        "--room", type=float, default=2.4, help="u_a as a multiple of the largest magnitude (published: 2.4)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="faces of one forward pass")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--json", type=str, default=None, help="write JSON to this file; -: to standard output, alone")
    return parser


def open_model(path: Path, method: str | None = None) -> Method:
    """A facex run or checkpoint, or an official file recognised by its names."""
    if path.is_dir():
        from facex.train.load_run import load_run

        return load_run(path).method
    from facex.methods.loading import method_from_file

    return method_from_file(path, method)


def measure(method: Method, data: str, samples: int, batch_size: int, device: str, seed: int) -> np.ndarray:
    """Lengths of the raw embeddings, float64 [N], of `samples` faces drawn without replacement (0: all)."""
    faces = open_dataset(data, color=method.input.color)
    count = len(faces) if samples <= 0 else min(samples, len(faces))
    if count == 0:
        raise DataError(f"{data}: holds no faces")
    order = np.sort(np.random.default_rng(seed).permutation(len(faces))[:count])
    where = pick_device(device)
    nets = {name: net.to(where) for name, net in plain_nets(method).items()}
    lengths = []
    with evaluation_mode(method, nets):
        for start in range(0, count, batch_size):
            indices = order[start : start + batch_size]
            batch = faces.allocate(len(indices), False)
            faces.read(indices, batch)
            found = embed_batch(method, nets, batch["image"], faces.color, where)
            lengths.append(found.vector.double().norm(dim=1).numpy())
    result = np.concatenate(lengths)
    if not np.isfinite(result).all() or result.min() <= 0:
        raise ConfigError(
            f"the model gives embeddings of length {result.min()}..{result.max()}: not a trained recogniser?"
        )
    return result


def as_text(summary: dict[str, Any], proposal: Proposal) -> str:
    """The table that a person reads."""
    low, high = f"{proposal.l_a:g}", f"{proposal.u_a:g}"
    lines = [f"magnitudes of {summary['count']} faces"]
    lines += [f"  {name:<6} {value:10.4f}" for name, value in summary.items() if name != "count"]
    lines += [
        "",
        f"proposal (s = {proposal.scale:g}, {'cos(theta + m)' if proposal.form == 'arc' else 'cos(theta) - m'})",
        f"  l_a       {low:>8}   below the smallest magnitude",
        f"  u_a       {high:>8}   above the largest, with room to grow",
        f"  l_margin  {proposal.l_margin:8g}   margin at l_a (published)",
        f"  u_margin  {proposal.u_margin:8g}   margin at u_a (published)",
        f"  lambda_g  {proposal.lambda_g:8g}   bound s K u_a^2 l_a^2 / (u_a^2 - l_a^2) = {proposal.lambda_min:.4f}",
        "",
        f"facex train --config ... {proposal.overrides()}",
    ]
    return "\n".join(lines)
