"""IJB's numbers in float64 and plain loops, for the tests: what every rule of `facex.eval.ijb_rules` should give."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from tests.eval.tiny import Tiny
from tests.eval.tiny_ijb import TinyIjb

FARS = (1e-3, 1e-2, 0.1)


def rows_of(images: np.ndarray) -> np.ndarray:
    """Tiny's embeddings in float64 of uint8 [n, 112, 112, 3] RGB."""
    method = Tiny()
    x = method.input.to_tensor(torch.from_numpy(np.ascontiguousarray(images)), "rgb").numpy().astype(np.float64)
    linear = method.net[2]
    return x.reshape(len(x), -1) @ linear.weight.detach().numpy().T.astype(np.float64)


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.sqrt(np.sum(row * row))


def by_hand(made: TinyIjb, name: str, plain: np.ndarray, mirrored: np.ndarray) -> dict[str, Any]:
    """1:1 and 1:N of the four rules, one template, pair and probe after the other."""
    rows = plain if name.startswith("magface") else plain + mirrored
    rows = rows * made.scores[:, None] if name == "insightface" else rows
    pooled = {}
    for t in sorted(set(made.templates.tolist())):
        mine = made.templates == t
        media = [rows[mine & (made.media == m)].mean(0) for m in sorted(set(made.media[mine].tolist()))]
        media = [unit(m) for m in media] if name == "magface" else media
        pooled[t] = unit(np.sum(media, 0))
    scores = np.array([pooled[a] @ pooled[b] for a, b in zip(made.first.tolist(), made.second.tolist(), strict=True)])
    if name.startswith("magface"):
        scores = 1 - np.arccos(np.clip(scores, -1, 1)) / np.pi
    far, tar, _ = roc_curve(made.issame, scores)
    nearest = {f: float(tar[::-1][np.argmin(np.abs(far[::-1] - f))]) for f in FARS}
    return {"tar": nearest, "auc": roc_auc_score(made.issame, scores), **search_by_hand(made, name, pooled)}


def search_by_hand(made: TinyIjb, name: str, pooled: dict[int, np.ndarray]) -> dict[str, Any]:
    galleries = [np.concatenate(made.galleries)] if name == "adaface" else made.galleries
    hits, tpir = {k: 0 for k in (1, 5, 10)}, {0.01: [], 0.1: []}
    for gallery in galleries:
        lists = []  # (score, mate?) of each probe, best first
        for probe in made.probes.tolist():
            found = [(float(pooled[probe] @ pooled[g]), g // 10 == probe // 10) for g in gallery.tolist()]
            lists.append(sorted(found, reverse=True))
        for k in hits:
            hits[k] += sum(any(mate for _, mate in found[:k]) for found in lists)
        mated = [found for found in lists if any(mate for _, mate in found)]
        for far in tpir:
            if name == "adaface":
                others = sorted((s for found in lists for s, mate in found if not mate), reverse=True)
                threshold = others[int(np.ceil(len(lists) * far)) - 1]
                tpir[far].append(np.mean([max(s for s, mate in found if mate) > threshold for found in mated]))
            else:
                alone = sorted((found[0][0] for found in lists if found not in mated), reverse=True)
                threshold = alone[max(int(len(alone) * far) - 1, 0)]
                tpir[far].append(np.mean([found[0][1] and found[0][0] > threshold for found in mated]))
    return {
        "rates": {k: count / len(made.probes) for k, count in hits.items()},
        "tpir": {far: float(np.mean(rates)) for far, rates in tpir.items()},
    }
