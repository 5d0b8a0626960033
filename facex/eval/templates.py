"""Face images to templates, as IJB-B and IJB-C define them: images of one medium are averaged first, then the media.

Sources: insightface recognition/arcface_torch/eval_ijbc.py (switches N, D, F), MagFace eval/eval_recognition/eval_ijb.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from facex.errors import DataError
from facex.eval.verification import normalize_rows

_BLOCK = 65536  # images at a time in float64
Pooling = Literal["sum", "mean"]


@dataclass
class Templates:
    """`ids` int64 [T], ascending; `features` float64 [T, D] in the same order."""

    ids: np.ndarray
    features: np.ndarray

    def places(self, wanted: np.ndarray) -> np.ndarray:
        """Row of each wanted template id: int64 [n]. Raises DataError naming the first id that has no image."""
        wanted = np.asarray(wanted)
        at = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        missing = self.ids[at] != wanted
        if missing.any():
            first = int(np.argmax(missing))
            raise DataError(f"template {wanted[first]} (entry {first} of the list) has no images in the list of faces")
        return at

    def select(self, wanted: np.ndarray) -> np.ndarray:
        """Features of the wanted templates, float64 [n, D]."""
        return self.features[self.places(wanted)]


def image_features(
    embeddings: np.ndarray,
    flipped: np.ndarray | None = None,
    detector_scores: np.ndarray | None = None,
    *,
    keep_norm: bool = True,
) -> np.ndarray:
    """Features of images as insightface prepares them, float64 [n, D], from raw `embeddings` [n, D].

    F: `flipped` [n, D], the embeddings of the mirrored views, are added. N: `keep_norm` False normalises each image.
    D: `detector_scores` [n] weigh the images. insightface's own default is N1 D1 F1.
    """
    rows = np.asarray(embeddings, np.float64)
    if flipped is not None:
        rows = rows + np.asarray(flipped, np.float64)
    if not keep_norm:
        rows = normalize_rows(rows)
    return rows if detector_scores is None else rows * np.asarray(detector_scores, np.float64)[:, None]


def insightface_templates(
    embeddings: np.ndarray,
    templates: np.ndarray,
    media: np.ndarray,
    *,
    flipped: np.ndarray | None = None,
    detector_scores: np.ndarray | None = None,
    keep_norm: bool = True,
) -> Templates:
    """insightface's (and AdaFace's) templates: `image_features`, mean over a medium, sum over media, L2-normalised.

    `templates` and `media` int64 [n] say where image i belongs. AdaFace's published form is N1 D0 F1: `flipped` given,
    no `detector_scores`. Raises DataError for shapes that do not fit and for NaN, naming the image.
    """
    _check(embeddings, templates, media, flipped=flipped, detector_scores=detector_scores)

    def block(rows: np.ndarray) -> np.ndarray:
        extra = None if flipped is None else flipped[rows]
        weight = None if detector_scores is None else detector_scores[rows]
        return image_features(embeddings[rows], extra, weight, keep_norm=keep_norm)

    pooled = _pool(block, templates, media, normalize_media=False, pooling="sum")
    return Templates(pooled.ids, normalize_rows(pooled.features))


def magface_templates(
    embeddings: np.ndarray, templates: np.ndarray, media: np.ndarray, *, magnitude_weighted: bool = False
) -> Templates:
    """MagFace's templates: mean over a medium of the raw images, mean over media, not normalised.

    `magnitude_weighted` (its `magface_qlt` 1, "MagFace+"): media keep their lengths, so good pictures weigh more;
    otherwise each medium is L2-normalised first. MagFace's script reports the form without.
    """
    _check(embeddings, templates, media)
    return _pool(
        lambda rows: np.asarray(embeddings[rows], np.float64),
        templates,
        media,
        normalize_media=not magnitude_weighted,
        pooling="mean",
    )


def _pool(
    block: Callable[[np.ndarray], np.ndarray],
    templates: np.ndarray,
    media: np.ndarray,
    *,
    normalize_media: bool,
    pooling: Pooling,
) -> Templates:
    """Images in the order of (template, medium), some whole media at a time: memory of a block and the templates."""
    order = np.lexsort((media, templates))
    ids, template_of = np.unique(np.asarray(templates)[order], return_inverse=True)
    ordered_media = np.asarray(media)[order]
    new = np.append(True, (np.diff(template_of) != 0) | (np.diff(ordered_media) != 0))
    starts = np.append(np.flatnonzero(new), len(order))
    features: np.ndarray | None = None
    counts = np.zeros(len(ids), np.int64)
    for first, last in _chunks(starts):
        rows = slice(starts[first], starts[last])
        means = np.add.reduceat(block(order[rows]), starts[first:last] - starts[first], axis=0)
        means /= np.diff(starts[first : last + 1])[:, None]
        if normalize_media:
            means = normalize_rows(means)
        if features is None:
            features = np.zeros((len(ids), means.shape[1]))
        owner = template_of[starts[first:last]]
        np.add.at(features, owner, means)
        np.add.at(counts, owner, 1)
    assert features is not None  # _check refuses empty lists
    return Templates(ids, features / counts[:, None] if pooling == "mean" else features)


def _chunks(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first medium, one past the last) such that a chunk has about `_BLOCK` images; a medium is never cut."""
    first, total = 0, len(starts) - 1
    while first < total:
        last = int(np.searchsorted(starts, starts[first] + _BLOCK, side="right")) - 1
        last = min(max(last, first + 1), total)
        yield first, last
        first = last


def _check(embeddings: np.ndarray, templates: np.ndarray, media: np.ndarray, **beside: np.ndarray | None) -> None:
    shape = np.shape(embeddings)
    if len(shape) != 2 or not shape[0]:
        raise DataError(f"embeddings of shape {shape}: [images, D] is wanted, with at least one image")
    for name, values in {"templates": templates, "media": media, **beside}.items():
        wanted = shape if name == "flipped" else shape[:1]
        if values is not None and np.shape(values) != wanted:
            raise DataError(f"{name} of shape {np.shape(values)} for embeddings of shape {shape}")
    flipped, weights = beside.get("flipped"), beside.get("detector_scores")
    for name, rows in (("embeddings", embeddings), ("flipped", flipped), ("detector_scores", weights)):
        for start in range(0, shape[0] if rows is not None else 0, _BLOCK):
            part = np.asarray(rows[start : start + _BLOCK] if rows is not None else 0)
            bad = ~np.isfinite(part.reshape(len(part), -1)).all(1)
            if bad.any():
                raise DataError(f"{name}: image {start + int(np.argmax(bad))} holds NaN or infinity")
