"""The official IJB scripts as rules: how faces become templates, and what 1:1 and 1:N count.

Sources: insightface recognition/arcface_torch/eval_ijbc.py (switches N, D, F) and _evaluation_/ijb/ijb_evals.py (1:N);
AdaFace validation_mixed/validate_IJB_BC.py; MagFace eval/eval_recognition/eval_ijb.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from facex.errors import ConfigError, DataError
from facex.eval.fusion import Fusion, fuse_views
from facex.eval.identification import combine_galleries, identify, identify_single_mates
from facex.eval.ijb import IJB_FARS, pair_scores
from facex.eval.ijb_embed import View
from facex.eval.ijb_files import IjbLists, Subjects
from facex.eval.matching import match
from facex.eval.ranks import Share
from facex.eval.roc import Roc, TarRule, auc, roc_curve, tar_at_far
from facex.eval.templates import Templates, insightface_templates, magface_templates
from facex.eval.verification import normalize_rows

Pooling = Literal["insightface", "magface", "magface_weighted"]
RANKS = (1, 5, 10)
FPIRS = (0.01, 0.1)
_BLOCK = 65536  # faces fused at a time in float64
_POINTS = 2000  # of a curve that is kept for a chart


@dataclass(frozen=True)
class IjbRules:
    """How embeddings become numbers.

    pooling: see `facex.eval.templates`; MagFace's scores are angles. fusion: of a face and its mirror image, "method"
    (the method's own), "none" (no mirror image) or a fusion of `facex.eval.fusion` times the fused length.
    detector_scores and keep_norm: insightface's D and N; MagFace knows neither. search: the 1:N protocol, "insightface"
    (each gallery alone, the best of probes without a mate set the threshold) or "adaface" (both as one; every probe has
    one mate). tar: the rule of TAR@FAR.
    """

    pooling: Pooling = "insightface"
    fusion: Literal["method", "none"] | Fusion = "method"
    detector_scores: bool = True
    keep_norm: bool = True
    search: Literal["insightface", "adaface"] = "insightface"
    tar: TarRule = "nearest"

    def __post_init__(self) -> None:
        if self.pooling != "insightface" and not self.keep_norm:
            raise ConfigError("MagFace's templates take faces of any length: keep_norm must be True (no --unit-faces)")

    @property
    def views(self) -> tuple[View, ...]:
        """The embeddings that the rules need."""
        if self.fusion == "method":
            return ("fused",)
        return ("plain",) if self.fusion == "none" else ("plain", "mirrored")

    def summary(self) -> dict[str, Any]:
        """The settings for a JSON file."""
        return dict(vars(self))


RULES = {
    "insightface": IjbRules(),
    "adaface": IjbRules(detector_scores=False, search="adaface"),
    "magface": IjbRules("magface", "none", False),
    "magface_weighted": IjbRules("magface_weighted", "none", False),
}


@dataclass
class SearchNumbers:
    """1:N: the rate of each rank, and the share of probes identified at each false positive identification rate."""

    rates: dict[int, float]
    tpir: dict[float, float]

    def summary(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "rank": {str(rank): rate for rank, rate in self.rates.items()},
            "tpir@fpir": {f"{far:g}": rate for far, rate in self.tpir.items()},
        }


@dataclass
class IjbNumbers:
    """1:1 (`tar` by FAR, `auc`, and the `curve` thinned for a chart), and 1:N where it was asked for."""

    tar: dict[float, float]
    auc: float
    curve: Roc
    search: SearchNumbers | None = None

    def summary(self) -> dict[str, Any]:
        """Plain numbers, TAR first."""
        numbers: dict[str, Any] = {"tar@far": {f"{far:g}": tar for far, tar in self.tar.items()}, "auc": self.auc}
        return numbers if self.search is None else {**numbers, **self.search.summary()}


def evaluate(
    rules: IjbRules,
    views: Mapping[View, np.ndarray],
    lists: IjbLists,
    fars: Sequence[float] = IJB_FARS,
    search: bool = True,
    device: torch.device | str = "cpu",
) -> IjbNumbers:
    """The numbers of embeddings `views` (`rules.views`, float [faces, D] each), equal on every rank: with
    torch.distributed every rank must call it and scores its share of the pairs.

    Raises DataError for embeddings that are NaN.
    """
    pooled = pool(rules, views, lists)
    share = Share.of(len(lists.first))
    own = slice(share.first, share.last)
    kind: Literal["dot", "angle"] = "dot" if rules.pooling == "insightface" else "angle"
    part = pair_scores(pooled, lists.first[own], lists.second[own], kind)
    scores = share.gather(torch.from_numpy(part), device).numpy()
    return IjbNumbers(
        tar_at_far(scores, lists.issame, fars, rules.tar),
        auc(scores, lists.issame),
        thin(roc_curve(scores, lists.issame, drop_intermediate=False)),
        search_templates(rules, pooled, lists) if search and lists.probes is not None else None,
    )


def pool(rules: IjbRules, views: Mapping[View, np.ndarray], lists: IjbLists) -> Templates:
    """The templates of all faces."""
    faces, rows = lists.faces, face_features(rules, views)
    if rules.pooling != "insightface":
        weighted = rules.pooling == "magface_weighted"
        return magface_templates(rows, faces.templates, faces.media, magnitude_weighted=weighted)
    weights = faces.scores if rules.detector_scores else None
    return insightface_templates(rows, faces.templates, faces.media, detector_scores=weights, keep_norm=rules.keep_norm)


def face_features(rules: IjbRules, views: Mapping[View, np.ndarray]) -> np.ndarray:
    """A row a face: a view as it is, or two fused and times the fused length, as AdaFace's script does it."""
    if rules.fusion == "method" or rules.fusion == "none":
        return views[rules.views[0]]
    two = [views[view] for view in rules.views]
    parts = []
    for start in range(0, len(two[0]), _BLOCK):
        raw = np.stack([rows[start : start + _BLOCK] for rows in two]).astype(np.float64)
        lengths = np.linalg.norm(raw, axis=2, keepdims=True)
        try:
            fused, length = fuse_views(raw / np.where(lengths == 0, 1, lengths), lengths, rules.fusion)
        except DataError as error:
            raise DataError(f"faces from {start} on, counted from there: {error}") from None
        parts.append((fused * length).astype(two[0].dtype))
    return np.concatenate(parts)


def search_templates(rules: IjbRules, pooled: Templates, lists: IjbLists) -> SearchNumbers:
    """1:N of the probes in the galleries, by cosine. Raises DataError for lists that `check_search` refuses."""
    check_search(rules, lists)
    assert lists.probes is not None
    probes, wanted = normalize_rows(pooled.select(lists.probes.templates)), lists.probes.subjects
    if rules.search == "adaface":
        whole = joined(lists.galleries)
        rows = normalize_rows(pooled.select(whole.templates))
        one = identify_single_mates(probes, rows, wanted, whole.subjects, RANKS, FPIRS)
        rates, tpir = one.rates, one.recall
    else:
        found = []
        for gallery in lists.galleries:
            rows = normalize_rows(pooled.select(gallery.templates))
            found.append(identify(match(probes, rows, wanted, gallery.subjects), RANKS, FPIRS))
        rates, tpir = combine_galleries(found)
    return SearchNumbers(dict(zip(RANKS, rates.tolist(), strict=True)), dict(zip(FPIRS, tpir.tolist(), strict=True)))


def check_search(rules: IjbRules, lists: IjbLists) -> None:
    """DataError for 1:N lists on which the protocol of the rules has no answer, before anything is embedded."""
    if lists.probes is None:
        return
    wanted, why = lists.probes.subjects, ""
    for what, list_ in [("probe", lists.probes), *(("gallery", gallery) for gallery in lists.galleries)]:
        if (faceless := ~np.isin(list_.templates, lists.faces.templates)).any():
            raise DataError(
                f"1:N: {what} template {list_.templates[faceless][0]} has no face in the list of faces; --no-search leaves 1:N out"
            )
    if rules.search == "adaface":
        people, counts = np.unique(joined(lists.galleries).subjects, return_counts=True)
        single = np.isin(wanted, people[counts == 1])
        if not len(wanted) or not single.all():
            why = f"{int(np.sum(~single))} of {len(wanted)} probes have not exactly one mate in the galleries"
    else:
        for number, gallery in enumerate(lists.galleries, 1):
            mated = np.isin(wanted, gallery.subjects)
            if not why and (not mated.any() or mated.all()):
                why = f"{int(mated.sum())} of {len(wanted)} probes have a mate in gallery {number}; some must and some must not"
    if why:
        raise DataError(f"1:N as {rules.search} counts it: {why}; --no-search leaves 1:N out")


def joined(galleries: Sequence[Subjects]) -> Subjects:
    """Several galleries as one."""
    return Subjects(*(np.concatenate([getattr(g, name) for g in galleries]) for name in ("templates", "subjects")))


def thin(curve: Roc, points: int = _POINTS) -> Roc:
    """At most `points` of a curve, evenly along a logarithmic FAR axis, both ends included."""
    if len(curve.far) <= points:
        return curve
    smallest = curve.far[curve.far > 0].min()
    grid = np.geomspace(smallest, 1, points - 2)
    kept = np.unique([0, *(np.searchsorted(curve.far, grid, "right") - 1), len(curve.far) - 1])
    return Roc(curve.far[kept], curve.tar[kept], curve.thresholds[kept])
