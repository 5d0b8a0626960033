"""Verification of a method on `.bin` sets, for `facex eval` and for the trainer (then on all ranks)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facex.data.memfile import is_memfile, open_memfile
from facex.data.verification import OnError, VerificationSet, load_bin
from facex.errors import ConfigError, FacexError
from facex.eval.conditions import by_condition
from facex.eval.folds import fold_bounds
from facex.eval.quality import RejectCurve, error_versus_reject, pair_quality
from facex.eval.ranks import Share, raise_everywhere
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
    conditions: dict[str, PairResult] = field(default_factory=dict)  # of a set whose pictures have mask flags

    def summary(self) -> dict[str, Any]:
        """Plain numbers, accuracy first."""
        numbers = self.pairs.summary()
        if self.images_per_second is not None:
            numbers["images/s"] = self.images_per_second
        numbers |= {f"accuracy {name}": result.accuracy for name, result in self.conditions.items()}
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
    networks are left as they were; no random numbers are drawn. What a method's `views` give stands under `NAME VIEW`.
    """
    results = {}
    for one in load_bins(bins, folds, uneven_folds):
        found = evaluate_set(method, nets, one, device, batch_size, flip, folds, fars, on_error, uneven_folds)
        results[one.name] = found.summary()
        for view, viewed in method.views().items():
            seen = evaluate_set(viewed, nets, one, device, batch_size, flip, folds, fars, on_error, uneven_folds)
            results[f"{one.name} {view}"] = seen.summary()
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
    result = SetResult(one.name, pairs, one.issame, quality, len(one.entries) / max(seconds, 1e-9))
    if one.flags is not None:
        result.conditions = by_condition(found.vector.numpy(), one.issame, one.flags, folds)
    return result


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
    if (distinct := one.distinct()) is not None:  # a picture of several pairs is embedded once
        pictures, places = distinct
        return _rows(embed_set(method, nets, pictures, device, batch_size, flip, on_error), places)
    total = len(one.entries)
    share = Share.of(total)
    parts: list[Embedding] = []
    error: FacexError | None = None
    with evaluation_mode(method, nets):
        for offset in range(0, share.size, batch_size):
            start, stop = share.first + offset, min(share.first + offset + batch_size, share.last)
            used = start < stop
            if not used:  # this rank's share is done: repeat a picture to keep step with the others
                start, stop = total - 1, total
            try:
                images = one.decode(method.input.color, on_error=on_error, start=start, stop=stop)
            except FacexError as failure:
                error = error or failure
                if share.world == 1:
                    raise
                images = one.decode(method.input.color, on_error="grey", start=start, stop=start + 1)
            beside: dict[str, Any] = {}
            if one.flags is not None:
                beside["side"] = {"flag": torch.from_numpy(one.flags[start : start + len(images)])}
            found = embed_batch(method, nets, images, method.input.color, device, flip, **beside)
            if used or not parts:
                parts.append(found if used else _rows(found, slice(0)))
    raise_everywhere(error, share.world)
    vector = share.gather(torch.cat([p.vector for p in parts]), device)
    if parts[0].quality is None:
        return Embedding(vector)
    quality = torch.cat([p.quality for p in parts if p.quality is not None])
    return Embedding(vector, share.gather(quality, device))


def _rows(found: Embedding, rows: slice | np.ndarray) -> Embedding:
    return Embedding(found.vector[rows], None if found.quality is None else found.quality[rows])
