"""1:1 accuracy by what the pictures of a pair show: both holistic, one of them masked, both masked."""

from __future__ import annotations

import numpy as np

from facex.eval.verification import PairResult, evaluate_pairs

CONDITIONS = {(False, False): "H-H", (False, True): "H-M", (True, True): "M-M"}


def by_condition(rows: np.ndarray, issame: np.ndarray, masked: np.ndarray, folds: int) -> dict[str, PairResult]:
    """Results of embeddings [2n, d] (pair i = rows 2i, 2i+1) with labels bool [n] and masked bool [2n], for each
    condition that has pairs of both kinds and enough of them for the folds."""
    found = {}
    sides, pairs = np.sort(masked.reshape(-1, 2), axis=1), rows.reshape(len(issame), 2, -1)
    for (first, second), name in CONDITIONS.items():
        chosen = (sides[:, 0] == first) & (sides[:, 1] == second)
        if len(np.unique(issame[chosen])) == 2 and chosen.sum() >= folds:
            own = pairs[chosen].reshape(2 * int(chosen.sum()), -1)
            found[name] = evaluate_pairs(own, issame[chosen], folds, val_far=None, uneven_folds=True)
    return found
