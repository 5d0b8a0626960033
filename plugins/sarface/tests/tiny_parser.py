"""A small face parser, rendered faces with label maps, and a parser trained on them, for the tests."""

from __future__ import annotations

from pathlib import Path

import torch
from facex_sarface.parser_training import FaceParser

from facex.commands import synth

SIDE = 48
OPTIONS = {"widths": [8, 16, 16, 16], "depths": [1, 1, 2, 1], "decoder_depths": [1, 1, 1, 1], "mlp_ratio": 2}
WORDS = ["--method.size", "64", "--method.options", str(OPTIONS).replace("'", "")]


def rendered(folder: Path, fields: str = "[parsing]") -> Path:
    """24 pictures of 6 people, 48 pixels wide."""
    argv = [
        "--identities",
        "6",
        "--images-per-identity",
        "4",
        "--size",
        str(SIDE),
        "--split",
        "train",
        "--workers",
        "1",
    ]
    assert synth.main([str(folder), *argv, "--fields", fields]) == 0
    return folder


def tiny_parser(size: int = 64, **more: str) -> FaceParser:
    """A parser with random weights whose answers differ from pixel to pixel."""
    torch.manual_seed(0)
    method = FaceParser(size=size, options=OPTIONS, **more)  # type: ignore[arg-type]
    for module in method.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.2)
    return method.eval()
