"""A small face set in memory that fulfils what the loader asks of a FaceDataset."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from facex.methods.batch import Field


class FakeSet:
    """`n` samples: image pixels and label say which sample it is; two points, a label map and a mask go with it."""

    color = "rgb"
    num_classes = 5

    def __init__(self, n: int = 23, size: tuple[int, int] = (6, 8), fail_at: int | None = None) -> None:
        self.n, self.size, self.fail_at = n, size, fail_at
        self.kinds = {
            "image": Field("image"),
            "label": Field("label"),
            "points": Field("points", ((0, 1),)),
            "parsing": Field("label_map", ((4, 5),)),
            "mask": Field("mask"),
            "flag": Field("flag"),
        }
        self.reads: list[list[int]] = []

    def __len__(self) -> int:
        return self.n

    def labels(self) -> np.ndarray:
        return np.arange(self.n) % self.num_classes

    def allocate(self, b: int, pin: bool) -> dict[str, Tensor]:
        h, w = self.size
        return {
            "image": torch.empty(b, h, w, 3, dtype=torch.uint8),
            "label": torch.empty(b, dtype=torch.int64),
            "points": torch.empty(b, 2, 2),
            "parsing": torch.empty(b, h, w, dtype=torch.uint8),
            "mask": torch.empty(b, h, w, dtype=torch.uint8),
            "flag": torch.empty(b, dtype=torch.bool),
        }

    def read(self, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        self.reads.append(indices.tolist())
        for row, index in enumerate(indices.tolist()):
            if index == self.fail_at:
                from facex.errors import RecordError

                raise RecordError(f"fake.rec: record {index} does not decode")
            rng = np.random.default_rng(index)
            out["image"][row] = torch.from_numpy(rng.integers(0, 256, (*self.size, 3), np.uint8))
            out["label"][row] = index % self.num_classes
            out["points"][row] = torch.from_numpy(rng.uniform(0, 5, (2, 2)).astype(np.float32))
            out["parsing"][row] = torch.from_numpy(rng.integers(0, 7, self.size, np.uint8))
            out["mask"][row] = torch.from_numpy(255 * rng.integers(0, 2, self.size, np.uint8))
            out["flag"][row] = bool(index % 2)
