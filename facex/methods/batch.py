"""What flows from the data to a method: named fields, each of a kind that every transform honours."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

FieldKind = Literal["image", "label_map", "mask", "points", "flag", "scalar", "label"]


@dataclass(frozen=True)
class Field:
    """How a field behaves under geometric transforms.

    Kinds and their tensors (B = batch):
      image      uint8 [B, H, W, 3], colour order in `Batch.color`; resampled smoothly
      label_map  uint8 [B, H, W]; resampled by nearest neighbour
      mask       uint8 [B, H, W], 0 or 255; resampled by nearest neighbour
      points     float32 [B, N, 2], (x, y) in pixels, pixel centres at integers
      flag       bool [B];  scalar  float32 [B] or [B, K];  label  int64 [B]

    `swaps` are the pairs that exchange under a horizontal flip: label values of a label map (left eye / right eye),
    point indices of a point set.
    """

    kind: FieldKind
    swaps: tuple[tuple[int, int], ...] = ()


@dataclass
class Batch:
    """One micro-batch of this rank.

    `fields["image"]` is uint8 [B, H, W, 3] until `Method.prepare` turns it into what the networks read.
    """

    fields: dict[str, Tensor]
    kinds: dict[str, Field]
    color: str  # "rgb" or "bgr": channel order of the image field
    index: Tensor  # int64 [B]: sample number in the data set
    position: Tensor  # int64 [B]: place of the sample in the global batch (equal for 1 rank and for W ranks)
    extras: dict[str, object] = field(default_factory=dict)  # what a method's `prepare` adds: views, actions, ...

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def with_fields(self, **fields: Tensor) -> Batch:
        """A copy with some fields replaced or added."""
        return replace(self, fields={**self.fields, **fields})

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`; asynchronous when it comes from pinned memory."""
        return replace(
            self,
            fields={k: v.to(device, non_blocking=True) for k, v in self.fields.items()},
            index=self.index.to(device, non_blocking=True),
            position=self.position.to(device, non_blocking=True),
        )
