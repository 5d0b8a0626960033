"""A set that changes from epoch to epoch is read with the epoch; any other as ever."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from facex.data.loader import BatchLoader
from facex.methods import Field


class Plain:
    """Eight samples whose value is their number."""

    color = "rgb"
    kinds = {"value": Field("scalar")}  # noqa: RUF012

    def __len__(self) -> int:
        return 8

    def allocate(self, b: int, pin: bool) -> dict[str, Tensor]:
        return {"value": torch.empty(b)}

    def read(self, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        out["value"].copy_(torch.from_numpy(indices))


class Changing(Plain):
    """The same plus 100 in each epoch."""

    def read_in_epoch(self, epoch: int, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        out["value"].copy_(torch.from_numpy(indices + 100 * epoch))


def test_the_epoch_reaches_the_set_that_asks_for_it() -> None:
    for data, offsets in ((Plain(), (0, 0)), (Changing(), (0, 100))):
        loader = BatchLoader(data, 4, 2)
        for epoch, offset in enumerate(offsets):
            seen = {
                int(i): float(v)
                for b in loader.epoch(epoch)
                for m in b
                for i, v in zip(m.index, m["value"], strict=True)
            }
            assert seen == {i: float(i + offset) for i in range(8)}
