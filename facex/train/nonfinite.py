"""A loss that is not finite ends the run, on every rank, with the samples that caused it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from facex.errors import TrainingError
from facex.files import write_json
from facex.train import distributed
from facex.train.launch import Ranks


@dataclass
class _Window:
    """One window's losses, waiting to be looked at."""

    network: str
    batch: int
    bad: Tensor  # [W + 1]: per rank, whether it saw a bad loss; last: fp16 overflow anywhere
    losses: list[Tensor]
    indices: list[Tensor]


class LossWatch:
    """Collects the losses of a window and looks at them when it closes.

    On the CPU, and with a loss scale, at once. On a GPU two windows later, so that no step waits for the device: a bad loss
    then stops the run before anything is saved (`flush`).
    """

    def __init__(self, ranks: Ranks, output: Path) -> None:
        self._ranks = ranks
        self._output = output
        self._losses: dict[str, list[Tensor]] = {}
        self._indices: dict[str, list[Tensor]] = {}
        self._waiting: deque[_Window] = deque()

    def note(self, network: str, loss: Tensor, index: Tensor) -> None:
        """Remember a micro-batch's loss and the sample numbers of its rows."""
        self._losses.setdefault(network, []).append(loss.detach())
        self._indices.setdefault(network, []).append(index)

    def close(self, network: str, batch: int, overflow: Tensor | None) -> bool:
        """Look at a window that closes in global batch `batch`. Returns whether fp16 overflowed on any rank; TrainingError
        for a bad loss."""
        losses, indices = self._losses.pop(network, []), self._indices.pop(network, [])
        flags = torch.zeros(self._ranks.world_size + 1, device=self._ranks.device)
        if overflow is None:
            flags[self._ranks.rank] = (~torch.isfinite(torch.stack(losses))).any().float()
        else:
            flags[-1] = overflow.amax() > 0
        if self._ranks.world_size > 1:
            flags = distributed.all_reduce(flags, "max")
        self._waiting.append(_Window(network, batch, flags, losses, indices))
        if overflow is not None:
            return bool(self._waiting.pop().bad[-1] > 0)
        while len(self._waiting) > (0 if self._ranks.device.type == "cpu" else 2):
            self._look(self._waiting.popleft())
        return False

    def flush(self) -> None:
        """Look at everything that waits; called before a checkpoint is written."""
        while self._waiting:
            self._look(self._waiting.popleft())

    def _look(self, window: _Window) -> None:
        ranks = window.bad[:-1].nonzero().flatten().tolist()
        if not ranks:
            return
        mine = [
            {"rank": self._ranks.rank, "loss": str(loss.item()), "samples": index.tolist()}
            for loss, index in zip(window.losses, window.indices, strict=True)
            if not bool(torch.isfinite(loss))
        ]
        batches = [entry for entries in distributed.gather_objects(mine) for entry in entries]
        path = self._output / f"nonfinite_step_{window.batch}.json"
        if self._ranks.first:
            write_json(path, {"step": window.batch, "network": window.network, "micro_batches": batches})
        samples = [s for entry in batches for s in entry["samples"]]
        shown = ", ".join(map(str, samples[:16])) + (f", ... ({len(samples)})" if len(samples) > 16 else "")
        raise TrainingError(
            f"the loss of network '{window.network}' is {batches[0]['loss'] if batches else 'not finite'} at step "
            f"{window.batch} on rank {', '.join(map(str, ranks))}; samples of the bad micro-batch: {shown} (saved in {path}). "
            "Lower the learning rate, clip gradients, or look at these records"
        )
