"""Several views of a face to one embedding: the fusions of AdaFace's evaluation (and, un-normalised, insightface's).

Source: AdaFace validation_mixed/validate_IJB_BC.py and utils.py, `fuse_features_with_norm`.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from facex.errors import DataError

Fusion = Literal["pre_norm_vector_add", "norm_weighted_avg", "average", "concat"]


def fuse_views(
    embeddings: np.ndarray, norms: np.ndarray | None = None, method: Fusion = "pre_norm_vector_add"
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse V views: unit `embeddings` [V, n, D] and their lengths `norms` [V, n, 1] -> (fused [n, D], norm [n, 1]).

    pre_norm_vector_add: the sum of the raw vectors (embedding times length), normalised; the norm is the sum's length.
    AdaFace's validation uses it, and insightface's addition of two raw views is the same before normalising.
    norm_weighted_avg: weighted by the lengths, normalised. average: the sum of unit vectors, normalised.
    concat: side by side, [n, V * D], not normalised. The norm of these three is the mean length (1 without `norms`).
    Raises DataError for shapes that do not fit, lengths that are wanted and missing, and views that cancel out.
    """
    if method not in get_args(Fusion):
        raise DataError(f"unknown fusion {method!r}; there are {', '.join(get_args(Fusion))}")
    views = np.asarray(embeddings)
    if views.ndim != 3 or not len(views):
        raise DataError(f"embeddings of shape {views.shape}: [views, n, D] is wanted")
    lengths = _lengths(norms, views, method)
    mean = lengths.mean(0)
    if method == "concat":
        return np.concatenate(list(views), axis=-1), mean
    if method == "average":
        return _unit(views.sum(0))[0], mean
    if method == "norm_weighted_avg":
        return _unit((views * (lengths / lengths.sum(0, keepdims=True))).sum(0))[0], mean
    return _unit((views * lengths).sum(0))


def _lengths(norms: np.ndarray | None, views: np.ndarray, method: str) -> np.ndarray:
    if norms is None:
        if method in ("norm_weighted_avg", "pre_norm_vector_add"):
            raise DataError(f"fusion {method} needs the lengths of the embeddings")
        return np.ones((*views.shape[:2], 1), views.dtype)
    lengths = np.asarray(norms)
    if lengths.shape != (*views.shape[:2], 1):
        raise DataError(
            f"lengths of shape {lengths.shape} for embeddings of shape {views.shape}: [views, n, 1] is wanted"
        )
    return lengths


def _unit(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise DataError(f"the views of face {int(np.argmin(lengths))} cancel out: their fusion has length 0")
    return rows / lengths, lengths
