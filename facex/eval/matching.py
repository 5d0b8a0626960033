"""Probes against a gallery, strip by strip: what every 1:N protocol needs of each probe, without the score matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from facex.errors import DataError

_SCORES = 1 << 22  # scores of one strip: 32 MiB as float64


@dataclass
class Matches:
    """What a search found for each of P probes. A mate is a gallery entry of the probe's own person."""

    mated: np.ndarray  # bool [P]: the gallery holds a mate
    mate: np.ndarray  # float64 [P]: the best mate's score, -inf where there is none
    rank: (
        np.ndarray
    )  # int64 [P]: entries of other people that score at least as high (0 = found first), -1 without mate
    other: np.ndarray  # float64 [P]: the best score of another person, -inf where the gallery holds nobody else
    lowest: float  # the smallest score of all
    top_others: np.ndarray  # float64 [k], descending: the k largest of all scores between different people

    def __len__(self) -> int:
        return len(self.mated)


def match(
    probes: np.ndarray,
    gallery: np.ndarray,
    probe_labels: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    distractor: int | None = None,
    keep_others: int = 0,
    strip: int | None = None,
) -> Matches:
    """Compare features `probes` [P, D] with `gallery` [G, D] by their inner product, in float64, `strip` probes at a
    time (chosen to take some 32 MiB if not given). Labels are integers [P] and [G].

    Gallery entries labelled `distractor` are nobody's mate. A tie counts against the probe: another person's equal
    score comes first. `keep_others` asks for that many entries of `top_others`.
    Raises DataError for an empty gallery or no probes, for shapes that do not fit, and for NaN or infinite features.
    """
    probes, gallery = _features(probes, "probes"), _features(gallery, "gallery")
    if probes.shape[1] != gallery.shape[1]:
        raise DataError(
            f"probes have {probes.shape[1]} numbers and the gallery has {gallery.shape[1]}: one network each?"
        )
    wide = gallery.astype(np.float64, copy=False).T
    step = strip or max(1, _SCORES // len(gallery))
    strips = (probes[i : i + step].astype(np.float64, copy=False) @ wide for i in range(0, len(probes), step))
    return _reduce(
        strips,
        _labels(probe_labels, len(probes), "probe"),
        _labels(gallery_labels, len(gallery), "gallery"),
        distractor,
        keep_others,
    )


def match_scores(
    scores: np.ndarray,
    probe_labels: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    distractor: int | None = None,
    keep_others: int = 0,
) -> Matches:
    """As `match`, from a matrix of scores [P, G] (higher = more alike). Raises DataError for NaN or infinity too."""
    scores = np.asarray(scores)
    if scores.ndim != 2 or not scores.size:
        raise DataError(f"scores of shape {scores.shape}: probes x gallery are wanted, and neither may be empty")
    step = max(1, _SCORES // scores.shape[1])
    strips = (scores[i : i + step].astype(np.float64, copy=False) for i in range(0, len(scores), step))
    probe_labels = _labels(probe_labels, len(scores), "probe")
    return _reduce(strips, probe_labels, _labels(gallery_labels, scores.shape[1], "gallery"), distractor, keep_others)


def _reduce(
    strips: Iterable[np.ndarray], probes: np.ndarray, gallery: np.ndarray, distractor: int | None, keep: int
) -> Matches:
    count = len(probes)
    out = Matches(
        np.zeros(count, bool), np.empty(count), np.empty(count, np.int64), np.empty(count), np.inf, np.empty(0)
    )
    owned = np.ones(len(gallery), bool) if distractor is None else gallery != distractor
    start = 0
    for scores in strips:
        rows = slice(start, start + len(scores))
        _check_scores(scores, start)
        same = (probes[rows, None] == gallery[None]) & owned
        mate = np.where(same, scores, -np.inf).max(1)
        others = np.where(same, -np.inf, scores)
        out.mated[rows], out.mate[rows], out.other[rows] = same.any(1), mate, others.max(1)
        out.rank[rows] = np.where(out.mated[rows], (others >= mate[:, None]).sum(1), -1)
        out.lowest = min(out.lowest, float(scores.min()))
        if keep:
            out.top_others = _largest(out.top_others, others, keep)
        start += len(scores)
    return out


def _largest(kept: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest finite numbers of both, descending."""
    floor = kept[-1] if len(kept) == count else -np.inf
    found = np.concatenate([kept, scores[scores > floor]])
    if len(found) > count:
        found = np.partition(found, len(found) - count)[len(found) - count :]
    return np.sort(found)[::-1]


def _check_scores(scores: np.ndarray, start: int) -> None:
    bad = ~np.isfinite(scores)
    if bad.any():
        probe, entry = (int(i[0]) for i in np.nonzero(bad))
        raise DataError(f"the score of probe {start + probe} and gallery entry {entry} is {scores[probe, entry]}")


def _features(rows: np.ndarray, what: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 2:
        raise DataError(f"{what} of shape {rows.shape}: features [n, D] are wanted")
    if not len(rows):
        raise DataError(
            "the gallery is empty: nobody can be found in it" if what == "gallery" else "no probes to search"
        )
    for start in range(0, len(rows), 65536):
        bad = ~np.isfinite(rows[start : start + 65536]).all(1)
        if bad.any():
            raise DataError(f"row {start + int(np.argmax(bad))} of the {what} holds NaN or infinity")
    return rows


def _labels(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise DataError(f"{what} labels of shape {labels.shape} for {count} rows")
    return labels


def pair_products(
    left: np.ndarray, right: np.ndarray, i: np.ndarray, j: np.ndarray, block: int = 512
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(where, left[i], right[j]) block by block as float64, for scores of very many pairs of rows; a block of rows stays
    in the cache until it is multiplied."""
    for start in range(0, len(i), block):
        where = slice(start, min(start + block, len(i)))
        yield where, *(rows[at[where]].astype(np.float64, copy=False) for rows, at in ((left, i), (right, j)))
