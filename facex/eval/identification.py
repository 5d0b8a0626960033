"""1:N identification on `Matches` (facex.eval.matching): closed and open set, as three published protocols count it.

Sources: insightface recognition/_evaluation_/ijb/ijb_evals.py; AdaFace validation_mixed (IJB) and validation_lq
(TinyFace, IJB-S). A probe's mate is found at rank k when fewer than k entries of other people score as high as it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facex.errors import DataError
from facex.eval.matching import Matches, match, match_scores

_OUTSIDE = 1e-10  # how far the threshold lies outside all scores: in a closed set, and where no false alarm is allowed
TINYFACE_DISTRACTOR = -100  # the label of gallery faces that are nobody's mate


def top_counts(matches: Matches, ranks: Sequence[int]) -> np.ndarray:
    """Number of probes found at each rank (1, 5, 10, ...): int64 [len(ranks)]. Probes without a mate never count."""
    if any(rank < 1 for rank in ranks):
        raise DataError(f"ranks begin at 1, not {min(ranks)}")
    return np.array([np.sum(matches.mated & (matches.rank < rank)) for rank in ranks], np.int64)


@dataclass
class GalleryResult:
    """One gallery of insightface's 1:N protocol."""

    counts: np.ndarray  # int64 [ranks]: mated probes found at each rank
    thresholds: np.ndarray  # float64 [fars]
    tpir: np.ndarray  # float64 [fars]: share of mated probes whose mate is the best match and above the threshold
    fpir: np.ndarray  # float64 [fars]: measured share of probes without a mate that lie above the threshold
    mated: int
    probes: int


def identify(matches: Matches, ranks: Sequence[int] = (1, 5, 10), fars: Sequence[float] = (0.01, 0.1)) -> GalleryResult:
    """insightface's 1:N on one gallery: the threshold of a FAR is element max(int(n * FAR) - 1, 0) of the descending
    best scores of the n probes without a mate; a hit is the strictly best match, strictly above the threshold.

    Raises DataError where no probe has a mate, or a FAR is asked for and every probe has one.
    """
    _need_mates(matches)
    impostors = np.sort(matches.other[~matches.mated])[::-1]
    if len(fars) and not len(impostors):
        raise DataError("every probe has a mate in the gallery: no false alarm can be measured, ask for no FAR")
    mate, best = matches.mate[matches.mated], matches.rank[matches.mated] == 0
    _check_fars(fars)
    thresholds = np.array([impostors[max(int(len(impostors) * far) - 1, 0)] for far in fars])
    return GalleryResult(
        top_counts(matches, ranks),
        thresholds,
        np.array([np.mean(best & (mate > t)) for t in thresholds]),
        np.array([np.mean(impostors > t) for t in thresholds]),
        len(mate),
        len(matches),
    )


def combine_galleries(results: Sequence[GalleryResult]) -> tuple[np.ndarray, np.ndarray]:
    """insightface's summary over the galleries (G1 and G2; S1 and S2 for IJB-B): (rank rates: counts summed over the
    galleries over the number of probes, TPIR: the galleries' mean)."""
    if not results or len({r.probes for r in results}) > 1:
        raise DataError("the galleries must be searched by the same probes")
    rates = np.sum([r.counts for r in results], 0) / results[0].probes
    return rates, np.mean([r.tpir for r in results], 0)


@dataclass
class SingleMateResult:
    """AdaFace's 1:N over one gallery in which every probe has exactly one mate."""

    rates: np.ndarray  # float64 [ranks]
    fars: np.ndarray  # float64 [fars], as asked for
    recall: np.ndarray  # float64 [fars]: share of probes whose mate scores above the threshold
    thresholds: np.ndarray  # float64 [fars]


def identify_single_mates(
    probes: np.ndarray,
    gallery: np.ndarray,
    probe_labels: np.ndarray,
    gallery_labels: np.ndarray,
    ranks: Sequence[int] = (1, 5, 10),
    fars: Sequence[float] = (0.01, 0.1),
) -> SingleMateResult:
    """AdaFace's identification: features [P, D] and [G, D]; the threshold of a FAR is the ceil(P * FAR)-th largest of
    all scores between different people. Raises DataError naming the first probe that has not exactly one mate."""
    entries, counts = np.unique(gallery_labels, return_counts=True)
    at = np.minimum(np.searchsorted(entries, probe_labels), max(len(entries) - 1, 0))
    mates = np.where(entries[at] == probe_labels, counts[at], 0) if len(entries) else np.zeros(len(probe_labels))
    if len(entries) and (mates != 1).any():
        first = int(np.argmax(mates != 1))
        raise DataError(
            f"probe {first} (person {probe_labels[first]}) has {mates[first]} mates in the gallery: this protocol wants"
            " exactly one a probe; `identify` takes others"
        )
    _check_fars(fars)
    places = [math.ceil(len(probe_labels) * far) for far in fars]
    matches = match(probes, gallery, probe_labels, gallery_labels, keep_others=max([1, *places]))
    if fars and len(matches.top_others) < max(places):
        raise DataError(f"FAR {max(fars):g} needs {max(places)} scores between different people")
    thresholds = np.array([matches.top_others[max(place, 1) - 1] for place in places])
    recall = np.array([np.mean(matches.mate > t) for t in thresholds])
    return SingleMateResult(top_counts(matches, ranks) / len(matches), np.array(fars, float), recall, thresholds)


@dataclass
class DirResult:
    """Detection and identification rates of TinyFace's and IJB-S's protocol."""

    rates: np.ndarray  # float64 [fars, ranks], over the probes with a mate
    measured_fars: (
        np.ndarray
    )  # float64 [fars]: share of probes without a mate at or above the threshold; 0 without such
    thresholds: np.ndarray  # float64 [fars]


def dir_at_far(matches: Matches, ranks: Sequence[int] = (1, 5, 20), fars: Sequence[float] = (1.0,)) -> DirResult:
    """DIR@FAR. `fars` = (1,) is the closed set: no threshold. Otherwise the threshold lets round(n * FAR) of the n
    probes without a mate through (none: just above the highest), and a hit is a mate within the rank, at or above it.

    Raises DataError where no probe has a mate, or an open set is asked for and every probe has one.
    """
    _need_mates(matches)
    _check_fars(fars)
    impostors = np.sort(matches.other[~matches.mated])[::-1]
    if len(fars) == 1 and fars[0] >= 1:
        thresholds = np.array([matches.lowest - _OUTSIDE])
    elif not len(impostors):
        raise DataError("every probe has a mate: an open set (FAR below 1) needs probes without one")
    else:
        alarms = [int(np.round(len(impostors) * far)) for far in fars]
        thresholds = np.array([impostors[n - 1] if n else impostors[0] + _OUTSIDE for n in alarms])
    mate, rank = matches.mate[matches.mated], matches.rank[matches.mated]
    rates = [[np.mean((rank < k) & (mate >= t)) for k in ranks] for t in thresholds]
    measured = [float(np.mean(impostors >= t)) if len(impostors) else 0.0 for t in thresholds]
    return DirResult(np.array(rates), np.array(measured), thresholds)


def tinyface(
    probes: np.ndarray,
    gallery: np.ndarray,
    probe_labels: np.ndarray,
    gallery_labels: np.ndarray,
    ranks: Sequence[int] = (1, 5, 20),
) -> dict[int, float]:
    """TinyFace's closed-set rates by rank: features [P, D] against mates and distractors (label -100), inner product;
    probes without a mate are left out."""
    found = match(probes, gallery, probe_labels, gallery_labels, distractor=TINYFACE_DISTRACTOR)
    return dict(zip(ranks, dir_at_far(found, ranks).rates[0].tolist(), strict=True))


def _need_mates(matches: Matches) -> None:
    if not matches.mated.any():
        raise DataError(f"none of the {len(matches)} probes has a mate in the gallery; do the labels belong together?")


def _check_fars(fars: Sequence[float]) -> None:
    for far in fars:
        if not 0 <= far <= 1:
            raise DataError(f"a FAR lies between 0 and 1, not {far}")


__all__ = [
    "TINYFACE_DISTRACTOR",
    "DirResult",
    "GalleryResult",
    "Matches",
    "SingleMateResult",
    "combine_galleries",
    "dir_at_far",
    "identify",
    "identify_single_mates",
    "match",
    "match_scores",
    "tinyface",
    "top_counts",
]
