"""IJB-B and IJB-C 1:1 verification on arrays: pairs of templates, and TAR at the published false-accept rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from facex.errors import DataError
from facex.eval.matching import pair_products
from facex.eval.roc import TarRule, auc, tar_at_far
from facex.eval.templates import Templates

IJB_FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
Score = Literal["dot", "angle"]


def pair_scores(templates: Templates, first: np.ndarray, second: np.ndarray, score: Score = "dot") -> np.ndarray:
    """Scores of pairs of template ids `first`, `second` [n]: float64 [n], block by block.

    "dot": the inner product (of normalised templates: the cosine). "angle": MagFace's 1 - arccos(cosine) / pi of
    templates of any length; a template of length 0 is at right angles to all.
    Raises DataError for lists of different lengths and for a template without images.
    """
    if score not in ("dot", "angle"):
        raise DataError(f"unknown score {score!r}; there are dot and angle")
    if np.shape(first) != np.shape(second) or np.ndim(first) != 1:
        raise DataError(
            f"pairs of {np.shape(first)} and {np.shape(second)} templates: two lists of one length are wanted"
        )
    rows = templates.features
    if score == "angle":
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(lengths == 0, 1, lengths)
    out = np.empty(len(first))
    for where, left, right in pair_products(rows, rows, templates.places(first), templates.places(second)):
        out[where] = np.einsum("ij,ij->i", left, right)
    return 1 - np.arccos(np.clip(out, -1, 1)) / np.pi if score == "angle" else out


@dataclass
class IjbResult:
    """`tar` by FAR and the area under the ROC; `scores` float64 [pairs]."""

    tar: dict[float, float]
    auc: float
    scores: np.ndarray


def verify_templates(
    templates: Templates,
    first: np.ndarray,
    second: np.ndarray,
    issame: np.ndarray,
    *,
    score: Score = "dot",
    fars: Sequence[float] = IJB_FARS,
    rule: TarRule = "nearest",
) -> IjbResult:
    """IJB's 1:1 protocol on pairs of template ids [n] with labels `issame` [n].

    `rule` "nearest" is the published one (see `tar_at_far`: the FAR used may exceed the target); "at_most" never does.
    """
    scores = pair_scores(templates, first, second, score)
    return IjbResult(tar_at_far(scores, issame, fars, rule), auc(scores, issame), scores)
