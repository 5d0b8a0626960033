"""What is watched during pre-training: whether the teacher says the same of all pictures, and what its features are
worth."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facex.data import open_dataset
from facex.errors import DataError, TrainingError
from facex.inference.embed import embed_images
from facex.methods import Context

if TYPE_CHECKING:
    from facex_lafs.pretrain import LAFSPretrain

EVERY = 10  # steps between looks
UNIFORM, ONE_SIDED = 1 - 1e-4, 0.02  # of the largest entropy


class CollapseWatch(nn.Module):
    """Ends a run whose teacher has collapsed.

    Two ways lead there. Its centred logits become equal for every picture: the entropy of its targets stays at log K.
    Or one
    prototype wins everywhere and the centre runs after it: the entropy of the centre falls to 0.

    Args:
        patience: steps for which that may last; 0: no watch.
    """

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("bad_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("entropies", torch.full((2,), -1.0))  # of targets and centre, of log K; -1: not yet
        self.entropies: Tensor
        self.bad_steps: Tensor

    @torch.no_grad()
    def look(self, rows: Tensor, center: Tensor, temperature: float, ctx: Context) -> None:
        """Look at some of the teacher's logits [n, K] every tenth step. Collective. TrainingError when it has
        lasted."""
        if self.patience <= 0 or ctx.step % EVERY:
            return
        most = math.log(center.numel())
        targets = entropy((rows - center) / temperature).mean() / most
        centre = entropy(center / temperature).mean() / most
        self.entropies.copy_(ctx.all_reduce(torch.stack([targets, centre]), "mean"))
        now, middle = self.entropies.tolist()
        bad = not (now < UNIFORM and middle > ONE_SIDED)
        self.bad_steps.add_(EVERY).mul_(int(bad))
        if int(self.bad_steps) >= self.patience:
            what = (
                f"the teacher gives every picture the same target (entropy {now:.4f} of log K)"
                if now >= UNIFORM
                else f"one prototype wins for every picture (entropy of the centre {middle:.4f} of log K)"
            )
            raise TrainingError(
                f"self-supervision has collapsed: for {int(self.bad_steps)} steps {what}. Lower the learning rate, "
                "bring the teacher's "
                "temperature to 0.04..0.07, or raise its momentum; method.probe.collapse_patience 0 switches this "
                "watch off"
            )

    def logs(self) -> dict[str, Tensor]:
        """The last entropies as shares of log K."""
        return {"target_entropy": self.entropies[0], "center_entropy": self.entropies[1]}


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) a row, [n]."""
    log_p = F.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


class KnnProbe(nn.Module):
    """Leave-one-out nearest-neighbour accuracy (cosine) of a method's embeddings on a labelled face set.

    Args:
        data: path of the set; None: no probe.
        every: steps between measurements.
        samples: pictures that are used, evenly from the whole set.
    """

    def __init__(self, data: str | None, every: int, samples: int) -> None:
        super().__init__()
        self.data, self.every, self.samples = data, every, samples
        self.register_buffer("accuracy", torch.full((), -1.0))
        self.accuracy: Tensor
        self._pictures: tuple[Tensor, Tensor, str] | None = None

    def run(self, method: LAFSPretrain, ctx: Context) -> None:
        """Measure where it is due; every rank does the same, and no random state is changed."""
        if self.data is None or self.every < 1 or ctx.step % self.every:
            return
        self.read(method.input.color)
        assert self._pictures is not None
        images, labels, color = self._pictures
        with torch.random.fork_rng(devices=[]):
            found = embed_images(method, ctx.nets, images, color, device=ctx.device)
        self.accuracy.fill_(leave_one_out(found.vector, labels))

    def read(self, color: str) -> None:
        """Read the pictures, once. DataError for a set on which nothing can be measured."""
        if self._pictures is None and self.data is not None:
            dataset = open_dataset(os.path.expandvars(self.data), color=color)
            chosen = np.unique(
                np.linspace(0, len(dataset) - 1, min(self.samples, len(dataset))).round().astype(np.int64)
            )
            rows = dataset.allocate(len(chosen), False)
            dataset.read(chosen, rows)
            if len(rows["label"].unique()) < 2 or bool((rows["label"].unique(return_counts=True)[1] < 2).all()):
                raise DataError(
                    f"{self.data}: {len(chosen)} pictures without two of any person: no neighbour can be right"
                )
            self._pictures = rows["image"], rows["label"], dataset.color

    def logs(self) -> dict[str, Tensor]:
        """The last accuracy, where there is a probe."""
        return {} if self.data is None else {"knn_accuracy": self.accuracy}


def leave_one_out(vectors: Tensor, labels: Tensor) -> float:
    """Share of the rows of vectors [n, D], among those with a partner, whose nearest other row has the same label
    [n]."""
    unit = F.normalize(vectors.double())
    similar = unit @ unit.T
    similar.fill_diagonal_(-2)
    right = labels[similar.argmax(1)] == labels
    _, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    return float(right[counts[inverse] > 1].double().mean())
