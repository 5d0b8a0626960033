"""What the commands on picture files share: the network, the pair list, the flags, and where the numbers go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facex.data.flag_lists import flags_of_pictures
from facex.errors import ConfigError, VerificationSetError
from facex.files import write_json
from facex.inference.embed import pick_device, plain_nets
from facex.methods import Method
from facex.methods.method import Nets
from facex.train.load_run import load_run
from facex_jhmfr.detect import Detector
from facex_jhmfr.finetune import JHMFR
from facex_jhmfr.pairs import Pair, parse_pairs

Add = Any  # ArgumentParser.add_argument


def add_pairs(add: Add) -> None:
    """Options of a pair list and its pictures."""
    add("--pairs", type=str, required=True, help="the pair list")
    add("--root", type=str, required=True, help="folder of the pictures that the list names")
    add("--set", type=str, default="LFW", help="form of the list: LFW, CFPFP, AgeDB30, RMFVD, CALFW, CPLFW, RFW, ...")
    add("--kind", choices=["holistic", "smfrd", "rmfvd"], default="holistic", help="which pictures show masks")


def add_network(add: Add, norm: str) -> None:
    """Options of the network, and of its numbers."""
    add("--checkpoint", type=str, required=True, help="a run folder, or one of its checkpoints")
    add(
        "--norm",
        choices=["eval", "train"],
        default=norm,
        help="pixels less 127.5 over 128 (JHMFR's evaluation), or as in the network's training",
    )
    add("--batch-size", type=int, default=64, help="pictures of one forward pass")
    add_device(add)
    add("--json", type=str, default=None, help="write JSON to this file; -: to standard output, alone")


def add_device(add: Add) -> None:
    """The option of the device."""
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")


def load_network(options: Any) -> tuple[Method, Nets, torch.device]:
    """The checkpoint's method, which goes by the flags that it is given or by both, and its networks on the device."""
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: at least one picture is needed")
    method, device = load_run(options.checkpoint).method, pick_device(options.device)
    if isinstance(method, JHMFR):
        method.inference_flag = "both" if options.flags == "both" else "given"
    return method, {name: net.to(device) for name, net in plain_nets(method).items()}, device


def flags_from(options: Any, names: Sequence[str], rules: Sequence[str]) -> np.ndarray:
    """bool [n] of the pictures `names` below the root, from a file of flags or a detector's run folder.

    Raises:
        ConfigError: `--flags` names neither, nor one of the `rules`.
    """
    path = Path(options.flags)
    if path.is_dir():
        return Detector(path, options.device).files(options.root, names)
    if not path.exists():
        raise ConfigError(
            f"--flags {options.flags}: neither one of {', '.join(rules)}, nor a file with a line `name flag` for each "
            "picture, nor the run folder of a mask detector"
        )
    return flags_of_pictures(path, names)


def read_list(path: Path, form: str) -> list[Pair]:
    """The pairs of a list file; VerificationSetError when it cannot be read, or has none."""
    if path.suffix.lower() == ".mat":
        raise VerificationSetError(
            f"{path}: MATLAB's lists are not read; AgeDB-30's pairs as pictures are insightface's agedb_30.bin (facex eval "
            "--bin), as a list they are lines `file file 0 or 1` (--set AgeDB30)"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise VerificationSetError(f"{path}: cannot be read as a pair list: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise VerificationSetError(f"{path}: cannot be read as a pair list: {error}") from error
    pairs = parse_pairs(form, text, str(path))
    if not pairs:
        raise VerificationSetError(f"{path}: holds no pairs")
    return pairs


def show(numbers: dict[str, Any], options: Any) -> None:
    """Print numbers as a table, or as `--json` says."""
    if options.json == "-":
        print(json.dumps(numbers, indent=2))
        return
    if options.json is not None:
        write_json(options.json, numbers)
    for name, value in numbers.items():
        print(f"{name:<14} {value:.4f}" if isinstance(value, float) else f"{name:<14} {value}")
