"""JHMFR's 1:1 verification: each picture's flag, its way to the network, the mirrored view, folds, conditions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from facex.data.imageio import ImageError, decode_image
from facex.errors import ConfigError, VerificationSetError
from facex.eval.conditions import by_condition
from facex.eval.verification import PairResult, evaluate_pairs
from facex.inference.embed import evaluation_mode
from facex.methods import InputSpec, Method
from facex.methods.method import Nets
from facex_jhmfr.pairs import Pair

SetKind = Literal["holistic", "smfrd", "rmfvd"]
FlagRule = Literal["all_masked", "by_name", "holistic"]
Flip = Literal["none", "tensor", "8bit"]
Norm = Literal["eval", "train"]
EVAL_NORM = (127.5, 128.0)  # mean and deviation of a pixel in JHMFR's file route


@dataclass(frozen=True)
class Protocol:
    """How a set is verified; the defaults are JHMFR's.

    folds: of the accuracy (others use 10). norm: mean and deviation of pixels, "eval" 127.5 and 128 (JHMFR's file
    route) or "train" the network's own (JHMFR: 127.5 and 127.5). flip: the mirrored view, added raw: "none", "tensor" (mirrored input) or "8bit"
    (mirrored through a truncated 8-bit picture, JHMFR's array route). flags: see `mask_flags`.
    """

    folds: int = 5
    norm: Norm = "eval"
    flip: Flip = "none"
    flags: FlagRule = "all_masked"
    batch_size: int = 64


@dataclass
class Verified:
    """Results over all pairs, and by condition (H-H, H-M, M-M by the pictures' real conditions) where a condition has
    both kinds of pairs and enough of them for the folds. vectors float32 [n, D], of unit length; flags bool [n] as
    given."""

    pairs: PairResult
    conditions: dict[str, PairResult] = field(default_factory=dict)
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    flags: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


def masked_by_name(names: Sequence[str], kind: SetKind) -> np.ndarray:
    """bool [n]: which pictures show a mask, by the conventions of a set: SMFRD's even-numbered files, RMFVD's paths
    without "unmasked"."""
    if kind == "holistic":
        return np.zeros(len(names), bool)
    if kind == "rmfvd":
        return np.array(["unmasked" not in name for name in names], bool)
    found = []
    for name in names:
        digits = re.fullmatch(r"\d+", PurePosixPath(name).stem)
        if digits is None:
            raise VerificationSetError(f"{name}: files of SMFRD are called by a number, the even ones masked")
        found.append(int(digits[0]) % 2 == 0)
    return np.array(found, bool)


def mask_flags(names: Sequence[str], kind: SetKind, rule: FlagRule) -> np.ndarray:
    """bool [n]: the flag that each picture is embedded with.

    "all_masked": every picture of a masked set, its unmasked ones too (JHMFR's code); "by_name": what its name says
    (JHMFR's intent); "holistic": none.
    """
    if rule not in ("all_masked", "by_name", "holistic"):
        raise ConfigError(f"the rule of flags is all_masked, by_name or holistic, not {rule!r}")
    if rule == "by_name":
        return masked_by_name(names, kind)
    return np.full(len(names), rule == "all_masked" and kind != "holistic")


def flip_8bit(x: Tensor) -> Tensor:
    """The mirror of images [B, 3, H, W] in [-1, 1] through 8 bits, cut off, not rounded: JHMFR's array route."""
    pixels = (255 * (0.5 * x + 0.5)).to(torch.uint8).flip(3)
    return (pixels.float() / 255 - 0.5) / 0.5


def load_input(paths: Sequence[Path], norm: Norm, spec: InputSpec) -> Tensor:
    """Pictures as a network with the input `spec` reads them, float32 [n, 3, H, W]; VerificationSetError names a broken
    one."""
    images = []
    for path in paths:
        try:
            images.append(decode_image(path.read_bytes(), color="rgb"))
        except OSError as error:
            raise VerificationSetError(f"{path}: cannot be read as a picture: {error.strerror or error}") from error
        except ImageError as error:
            raise VerificationSetError(f"{path}: cannot be read as a picture: {error}") from error
        if images[-1].shape != images[0].shape:
            raise VerificationSetError(
                f"{path}: a picture of {images[-1].shape[:2]}, {paths[0]} has {images[0].shape[:2]}"
            )
    if norm == "eval":
        spec = replace(spec, mean=(EVAL_NORM[0],) * 3, std=(EVAL_NORM[1],) * 3)
    return spec.to_tensor(torch.from_numpy(np.stack(images)), "rgb")


def embed_inputs(
    method: Method, nets: Nets, x: Tensor, flags: np.ndarray | None, flip: Flip = "none", batch_size: int = 64
) -> np.ndarray:
    """Unit vectors float32 [n, D] of network-ready images [n, 3, H, W] under flags bool [n] (None: holistic)."""
    parts = []
    with evaluation_mode(method, nets):
        for start in range(0, len(x), batch_size):
            images = x[start : start + batch_size]
            side: Mapping[str, Tensor] = {}
            if flags is not None:
                side = {"flag": torch.from_numpy(flags[start : start + batch_size])}
            vector = method.embed(images, nets, side, flip=flip == "tensor").vector
            if flip == "8bit":
                vector = vector + method.embed(flip_8bit(images), nets, side).vector
            parts.append(vector.float().cpu().numpy())
    vectors = np.concatenate(parts)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def verify_files(
    method: Method,
    nets: Nets,
    root: str | Path,
    pairs: Sequence[Pair],
    kind: SetKind = "holistic",
    protocol: Protocol | None = None,
    flags: np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> Verified:
    """Verify pairs of files below `root`; each file is embedded once. flags bool [n] in the order of `distinct_files`
    replace the protocol's rule."""
    protocol = protocol or Protocol()
    names = distinct_files(pairs)
    flags = mask_flags(names, kind, protocol.flags) if flags is None else flags
    vectors = []
    for start in range(0, len(names), protocol.batch_size):
        stop = start + protocol.batch_size
        x = load_input([Path(root) / name for name in names[start:stop]], protocol.norm, method.input).to(device)
        vectors.append(embed_inputs(method, nets, x, flags[start:stop], protocol.flip, protocol.batch_size))
    rows = np.concatenate(vectors)
    place = {name: i for i, name in enumerate(names)}
    index = np.array([place[name] for pair in pairs for name in (pair.first, pair.second)])
    same = np.array([pair.same for pair in pairs])
    conditions = by_condition(rows[index], same, masked_by_name(names, kind)[index], protocol.folds)
    return Verified(_evaluate(rows[index], same, protocol.folds), conditions, rows, flags)


def distinct_files(pairs: Sequence[Pair]) -> list[str]:
    """Every file once, in the order in which the pairs name them."""
    return list(dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second)))


def _evaluate(rows: np.ndarray, same: np.ndarray, folds: int) -> PairResult:
    return evaluate_pairs(rows, same, folds, val_far=None, uneven_folds=True)
