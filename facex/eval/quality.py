"""Error versus reject: how verification improves when the pairs of lowest quality are left out.

Source: MagFace eval/eval_quality/eval_quality.py. Its false match rate is nominal: the threshold is a rank among the
impostor pairs that are left, and what rate that is depends on how many they are. Here the measured rate stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facex.errors import DataError
from facex.eval.verification import angular_distances

REJECT_RATES = np.arange(0, 0.98, 0.05)  # 0, 0.05, ..., 0.95 with numpy's rounding
MIN_IMPOSTORS = 101  # MagFace measures nothing on fewer different-person pairs


@dataclass
class RejectCurve:
    """Errors after rejecting a share of the pairs; arrays [rates]. NaN where too few pairs are left to measure."""

    rates: np.ndarray  # share of pairs rejected
    fnmr: np.ndarray  # share of genuine pairs at or above the threshold
    fmr: np.ndarray  # measured share of impostor pairs below the threshold
    thresholds: np.ndarray  # distances
    kept: np.ndarray  # int64: pairs left
    impostors: np.ndarray  # int64: different-person pairs among them
    target_fmr: float
    nominal: bool

    @property
    def area(self) -> float:
        """Area under FNMR over the reject rate, over the measured span (the mean FNMR); NaN for fewer than 2 points."""
        known = ~np.isnan(self.fnmr)
        if known.sum() < 2:
            return float("nan")
        x, y = self.rates[known], self.fnmr[known]
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (x[-1] - x[0]))

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a JSON file; None where nothing could be measured."""
        return {
            "target_fmr": self.target_fmr,
            "nominal_fmr": self.nominal,
            "area": _plain(np.array([self.area]))[0],
            "reject": _plain(self.rates),
            "fnmr": _plain(self.fnmr),
            "measured_fmr": _plain(self.fmr),
            "pairs": self.kept.tolist(),
        }


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def pair_quality(qualities: np.ndarray) -> np.ndarray:
    """Quality of pairs from those of faces [2n] (pair i = faces 2i, 2i + 1): the lower of the two, float64 [n]."""
    values = np.asarray(qualities, np.float64)
    if values.ndim != 1 or len(values) % 2:
        raise DataError(f"qualities of shape {values.shape}: two a pair are wanted")
    return np.minimum(values[0::2], values[1::2])


def error_versus_reject(
    distances: np.ndarray,
    issame: np.ndarray,
    quality: np.ndarray,
    *,
    fmr: float = 1e-3,
    rates: Sequence[float] | np.ndarray = REJECT_RATES,
    nominal_fmr: bool = False,
    omit: bool = False,
    min_impostors: int = MIN_IMPOSTORS,
) -> RejectCurve:
    """FNMR at a false match rate after dropping the int(rate * n) pairs of lowest `quality` [n], for each of `rates`.

    A pair matches when its distance lies below the threshold. The threshold is the largest whose measured FMR on the
    pairs that are left does not exceed `fmr`; with `nominal_fmr` it is MagFace's: the impostor distance number
    floor((m - 1) * fmr) of m, ascending from 0. Pairs of equal quality are dropped in the order given.
    Points with fewer than `min_impostors` impostor pairs, or without genuine pairs, are NaN; with `omit` (MagFace) they
    are missing and later points move up, so `fnmr` may be shorter than `rates`.
    Raises DataError for shapes that do not fit, NaN, and rates outside 0..1.
    """
    d, same, q = _check(distances, issame, quality)
    rates = np.asarray(rates, np.float64)
    if rates.ndim != 1 or not len(rates) or np.isnan(rates).any() or rates.min() < 0 or rates.max() >= 1:
        raise DataError(f"reject rates lie in 0..1 (below 1), not {rates}")
    if not 0 < fmr < 1:
        raise DataError(f"a false match rate lies between 0 and 1, not {fmr}")
    order = np.argsort(q, kind="stable")
    dropped = [int(rate * len(q)) for rate in rates]
    points = [_point(d[order[n:]], same[order[n:]], fmr, nominal_fmr, min_impostors) for n in dropped]
    kept = np.array([len(q) - n for n in dropped], np.int64)
    fnmr, measured, thresholds, impostors = (np.array(column) for column in zip(*points, strict=True))
    if omit:
        fnmr, measured, thresholds = (v[~np.isnan(fnmr)] for v in (fnmr, measured, thresholds))
    return RejectCurve(rates, fnmr, measured, thresholds, kept, impostors.astype(np.int64), fmr, nominal_fmr)


def _point(
    d: np.ndarray, same: np.ndarray, fmr: float, nominal: bool, min_impostors: int
) -> tuple[float, float, float, int]:
    """(FNMR, measured FMR, threshold, impostor pairs) on the pairs that are left."""
    impostor, genuine = np.sort(d[~same]), d[same]
    if len(impostor) < max(min_impostors, 1) or not len(genuine):
        return float("nan"), float("nan"), float("nan"), len(impostor)
    place = (len(impostor) - 1) if nominal else len(impostor)
    threshold = impostor[min(_floor(place * fmr), len(impostor) - 1)]
    return float(np.mean(genuine >= threshold)), float(np.mean(impostor < threshold)), float(threshold), len(impostor)


def _floor(value: float) -> int:
    """floor, where 1000 * 1e-3 = 1 whatever the last bit says."""
    return int(np.floor(value + 1e-9))


def error_versus_reject_embeddings(
    embeddings: np.ndarray, issame: np.ndarray, qualities: np.ndarray | None = None, **options: Any
) -> RejectCurve:
    """`error_versus_reject` of raw `embeddings` [2n, D] (pair i = rows 2i, 2i + 1), as MagFace: angular distances, no
    mean subtracted; quality = the embeddings' lengths unless `qualities` [2n] (another network's, say) are given."""
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2 or len(rows) != 2 * len(issame):
        raise DataError(f"embeddings {rows.shape} for {np.shape(issame)} labels: two rows a pair are wanted")
    values = np.linalg.norm(rows, axis=1) if qualities is None else np.asarray(qualities)
    return error_versus_reject(angular_distances(rows[0::2], rows[1::2]), issame, pair_quality(values), **options)


def _check(distances: np.ndarray, issame: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    d, same, q = np.asarray(distances, np.float64), np.asarray(issame).astype(bool), np.asarray(quality, np.float64)
    if d.ndim != 1 or not len(d) or d.shape != same.shape or d.shape != q.shape:
        raise DataError(f"distances {d.shape}, labels {same.shape} and qualities {q.shape} must be rows of one length")
    for name, values in (("distances", d), ("qualities", q)):
        bad = np.isnan(values)
        if bad.any():
            raise DataError(
                f"{int(bad.sum())} of {len(values)} {name} are NaN, the first at pair {int(np.argmax(bad))}"
            )
    return d, same, q
