"""The best wrong class of a row, over all shards, in chunks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from facex.heads.collectives import Ranks
from facex.heads.sharded_softmax import shard_cosine
from facex.heads.shards import Shard

_CHUNK = 16384  # classes compared at a time, at most
_TILE = 1 << 23  # cosines in memory, at most (but those with a few hundred classes)


def best_other(
    x: Tensor, labels: Tensor, weight: Tensor, normalize: bool, shard: Shard, ranks: Ranks
) -> tuple[Tensor, Tensor, Tensor]:
    """Target cosine [b] of the first label, best cosine among all classes that are no label of the row [b], its class.

    `x` [b, D] this rank's rows (normalised by the caller), `labels` int64 [b, K], -1 = none.
    """
    everyone, all_labels = ranks.gather(x), ranks.gather(labels)
    here = (all_labels >= shard.start) & (all_labels < shard.stop)
    classes = torch.where(here, all_labels - shard.start, -1)
    target = ranks.sum(shard_cosine(everyone, weight, classes[:, :1], normalize))[:, 0]
    best, index = _best_in_shard(everyone, classes, weight, normalize)
    index = torch.where(index >= 0, index + shard.start, -1)
    if ranks.size > 1:
        bests = ranks.gather(best[None])
        best, owner = bests.max(0)
        index = ranks.gather(index[None]).gather(0, owner[None])[0]
    return ranks.mine(target), ranks.mine(best), ranks.mine(index)


def _best_in_shard(x: Tensor, classes: Tensor, weight: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    best = x.new_full((x.shape[0],), -math.inf)
    index = torch.full_like(best, -1, dtype=torch.int64)
    chunk = max(256, min(_CHUNK, _TILE // max(1, x.shape[0])))
    for start in range(0, weight.shape[0], chunk):
        rows = weight[start : start + chunk]
        cos = x @ (F.normalize(rows, eps=1e-12) if normalize else rows).T
        for k in range(classes.shape[1]):
            inside = (classes[:, k] >= start) & (classes[:, k] < start + rows.shape[0])
            column = torch.where(inside, classes[:, k] - start, 0)[:, None]
            kept = torch.where(inside[:, None], -math.inf, cos.gather(1, column))
            cos.scatter_(1, column, kept)
        value, place = cos.max(1)
        better = value > best
        best = torch.where(better, value, best)
        index = torch.where(better, place + start, index)
    return best, index
