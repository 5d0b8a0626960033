"""Verification of a method on `.bin` sets, for `facex eval` and for the trainer (then on all ranks)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from facex.data.memfile import is_memfile, open_memfile
from facex.data.verification import OnError, VerificationSet, load_bin
from facex.errors import ConfigError, FacexError
from facex.eval.folds import fold_bounds
from facex.eval.quality import RejectCurve, error_versus_reject, pair_quality
from facex.eval.verification import PairResult, evaluate_pairs
from facex.inference.embed import embed_batch, evaluation_mode
from facex.methods import Embedding, Method
from facex.methods.method import Nets

FARS = (1e-2, 1e-3)


@dataclass
class SetResult:
    """One network on one set: the numbers, and what the report draws."""

    name: str
    pairs: PairResult
    issame: np.ndarray  # bool [pairs]
    quality: np.ndarray | None = None  # float32 [2 * pairs]
    images_per_second: float | None = None
    reject: RejectCurve | None = None  # error versus reject, where it was asked for

    def summary(self) -> dict[str, Any]:
        """Plain numbers, accuracy first."""
        numbers = self.pairs.summary()
        if self.images_per_second is not None:
            numbers["images/s"] = self.images_per_second
        if self.quality is not None:
            numbers["quality_mean"] = float(self.quality.mean())
        if self.reject is not None:
            numbers["error_versus_reject"] = self.reject.summary()
        return numbers


def load_bins(
    bins: Sequence[str | Path | VerificationSet], folds: int = 10, uneven_folds: bool = False
) -> list[VerificationSet]:
    """Read verification sets (`.bin` files, or AdaFace's memory-mapped folders ROOT/NAME) and check that they make the
    folds: a mistake shows before anything is computed.

    Raises VerificationSetError for a bad file or folds that do not fit, ConfigError for two sets of one name.
    """
    sets = [b if isinstance(b, VerificationSet) else open_memfile(b) if is_memfile(b) else load_bin(b) for b in bins]
    for i, one in enumerate(sets):
        if one.name in [other.name for other in sets[:i]]:
            raise ConfigError(f"two verification sets are called {one.name!r}; rename one of the files")
        try:
            fold_bounds(len(one), folds, uneven_folds)
        except FacexError as error:
            raise type(error)(f"{one.path or one.name}: {error}") from None
    return sets


def evaluate_bins(
    method: Method,
    nets: Nets,
    bins: Sequence[str | Path | VerificationSet],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    flip: bool = True,
    folds: int = 10,
    fars: Sequence[float] = FARS,
    on_error: OnError = "raise",
    uneven_folds: bool = False,
) -> dict[str, dict[str, Any]]:
    """`{set name: {"accuracy": 0..1, "std", "tar@far", "auc", ...}}`, equal on every rank.

    With torch.distributed initialised every rank must call it: each embeds its share of the pictures. Modes of the
    networks are left as they were; no random numbers are drawn.
    """
    results = {}
    for one in load_bins(bins, folds, uneven_folds):
        found = evaluate_set(method, nets, one, device, batch_size, flip, folds, fars, on_error, uneven_folds)
        results[one.name] = found.summary()
    return results


def evaluate_set(
    method: Method,
    nets: Nets,
    one: VerificationSet,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    flip: bool = True,
    folds: int = 10,
    fars: Sequence[float] = FARS,
    on_error: OnError = "raise",
    uneven_folds: bool = False,
) -> SetResult:
    """As `evaluate_bins` for one set, with scores and qualities."""
    start = time.perf_counter()
    found = embed_set(method, nets, one, device, batch_size, flip, on_error)
    seconds = time.perf_counter() - start
    pairs = evaluate_pairs(found.vector.numpy(), one.issame, folds, fars=fars, uneven_folds=uneven_folds)
    quality = None if found.quality is None else found.quality.numpy()
    return SetResult(one.name, pairs, one.issame, quality, len(one.entries) / max(seconds, 1e-9))


def reject_curve(result: SetResult, fmr: float = 1e-3, nominal_fmr: bool = False) -> RejectCurve:
    """Error versus reject of one network on one set, by the lower quality of each pair; thresholds are squared
    distances. Raises ConfigError for a method without quality."""
    if result.quality is None:
        raise ConfigError(f"{result.name}: the method gives no quality, so no pair can be rejected by it")
    quality = pair_quality(result.quality)
    return error_versus_reject(-result.pairs.scores, result.issame, quality, fmr=fmr, nominal_fmr=nominal_fmr)


def embed_set(
    method: Method,
    nets: Nets,
    one: VerificationSet,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    flip: bool = True,
    on_error: OnError = "raise",
) -> Embedding:
    """Embeddings of all 2n pictures of a set, float32 on the CPU, on every rank; pictures are decoded batch by batch.

    Every rank makes the same number of forward passes (an engine may communicate inside them), and an error on one rank
    is raised on all.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    total = len(one.entries)
    share = math.ceil(total / world)
    first, last = min(rank * share, total), min((rank + 1) * share, total)
    parts: list[Embedding] = []
    error: FacexError | None = None
    with evaluation_mode(method, nets):
        for offset in range(0, share, batch_size):
            start, stop = first + offset, min(first + offset + batch_size, last)
            used = start < stop
            if not used:  # this rank's share is done: repeat a picture to keep step with the others
                start, stop = total - 1, total
            try:
                images = one.decode(method.input.color, on_error=on_error, start=start, stop=stop)
            except FacexError as failure:
                error = error or failure
                if world == 1:
                    raise
                images = one.decode(method.input.color, on_error="grey", start=start, stop=start + 1)
            found = embed_batch(method, nets, images, method.input.color, device, flip)
            if used or not parts:
                parts.append(found if used else _rows(found, 0))
    _raise_everywhere(error, world)
    vector = _gather(torch.cat([p.vector for p in parts]), share, world, device)[:total]
    if parts[0].quality is None:
        return Embedding(vector)
    quality = torch.cat([p.quality for p in parts if p.quality is not None])
    return Embedding(vector, _gather(quality, share, world, device)[:total])


def _rows(found: Embedding, count: int) -> Embedding:
    return Embedding(found.vector[:count], None if found.quality is None else found.quality[:count])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _raise_everywhere(error: FacexError | None, world: int) -> None:
    """Raise this rank's error, or name another rank's, so that nobody waits for a rank that left."""
    if world == 1:
        return
    texts: list[Any] = [None] * world
    dist.all_gather_object(texts, None if error is None else str(error))
    if error is not None:
        raise error
    for rank, text in enumerate(texts):
        if text is not None:
            raise FacexError(f"rank {rank}: {text}")


def _gather(rows: Tensor, share: int, world: int, device: torch.device | str) -> Tensor:
    """Rows of all ranks in order, on the CPU; each rank's part is padded to `share` rows for the way."""
    if world == 1:
        return rows
    padded = rows.new_zeros(share, *rows.shape[1:])
    padded[: len(rows)] = rows
    if dist.get_backend() == "nccl":
        padded = padded.to(device)
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat(parts).cpu()
