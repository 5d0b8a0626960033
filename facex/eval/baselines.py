"""What a trained network must beat: the raw pixels, and the same network before training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facex.data.verification import OnError, VerificationSet
from facex.eval.run import FARS, SetResult
from facex.eval.verification import evaluate_distances, normalize_rows, squared_distances

_PAIRS = 256  # pairs decoded at a time


def raw_pixels(
    one: VerificationSet,
    folds: int = 10,
    fars: Sequence[float] = FARS,
    on_error: OnError = "raise",
    uneven_folds: bool = False,
) -> SetResult:
    """Verification without a network: the cosine of two pictures' RGB pixels, each picture minus its mean."""
    parts = []
    for start in range(0, len(one), _PAIRS):
        images = one.decode("rgb", on_error=on_error, start=2 * start, stop=2 * (start + _PAIRS))
        rows = images.reshape(len(images), -1).astype(np.float64)
        rows = normalize_rows(rows - rows.mean(1, keepdims=True))
        parts.append(squared_distances(rows[0::2], rows[1::2]))
    pairs = evaluate_distances(np.concatenate(parts), one.issame, folds, fars=fars, uneven_folds=uneven_folds)
    return SetResult(one.name, pairs, one.issame)
