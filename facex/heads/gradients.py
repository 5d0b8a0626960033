"""Gradients of a shard over an accumulation window: dense in one buffer, or merged rows when classes are sampled."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ROWS = 8192  # rows worked on at a time: 16 MB at D = 512


class GradientWindow:
    """dW of one shard since the last step, still multiplied by the loss scale.

    Dense mode keeps one [C, D] buffer into which the op adds; sampled mode keeps sorted class indices and their rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, sampled: bool) -> None:
        self._shape, self._like = weight.shape, weight.detach()
        self._bias_like = bias
        self.sampled = sampled
        self.dense: Tensor | None = None
        self.index: Tensor | None = None
        self.rows: Tensor | None = None
        self.bias: Tensor | None = None
        self.micro_steps = 0

    def buffer(self) -> Tensor:
        """The dense buffer, allocated at first use."""
        if self.dense is None:
            self.dense = torch.zeros_like(self._like)
        return self.dense

    def add_rows(self, index: Tensor, rows: Tensor) -> None:
        """Add gradients of the sampled classes `index` (sorted, unique)."""
        if self.index is None or self.rows is None:
            self.index, self.rows = index, rows
            return
        merged = torch.cat([self.index, index]).unique()
        out = rows.new_zeros((merged.numel(), rows.shape[1]))
        out.index_add_(0, torch.searchsorted(merged, self.index), self.rows)
        out.index_add_(0, torch.searchsorted(merged, index), rows)
        self.index, self.rows = merged, out

    def add_bias(self, values: Tensor, index: Tensor | None = None) -> None:
        """Add gradients of the bias, of all classes or of the (possibly repeated) classes `index`."""
        if self.bias is None:
            self.bias = self._like.new_zeros(self._shape[0])
        if index is None:
            self.bias += values
        else:
            self.bias.index_add_(0, index, values)

    def chunk(self, start: int, stop: int) -> Tensor:
        """Rows start .. stop - 1 as a dense [stop - start, D] tensor; a view of the buffer in dense mode."""
        if not self.sampled:
            return self.buffer()[start:stop]
        if self.index is None or self.rows is None or not self.index.numel():
            return self._like.new_zeros((stop - start, self._shape[1]))
        # Every class looks for itself among the sampled ones: no number has to come from the device.
        wanted = torch.arange(start, stop, device=self.index.device)
        place = torch.searchsorted(self.index, wanted).clamp_(max=self.index.numel() - 1)
        return self.rows[place] * (self.index[place] == wanted)[:, None]

    def full(self) -> Tensor:
        """The whole [C, D] gradient (tests and small heads)."""
        return self.chunk(0, self._shape[0]).clone()

    def sq_norm(self) -> Tensor:
        """Sum of squares, bias included: a float64 scalar, inf or NaN if an entry is not finite."""
        rows = self.rows if self.sampled else self.dense
        total = torch.zeros((), dtype=torch.float64, device=self._like.device)
        if rows is not None:
            for start in range(0, rows.shape[0], CHUNK_ROWS):
                total += torch.linalg.vector_norm(rows[start : start + CHUNK_ROWS]).double().square()
        if self.bias is not None:
            total += self.bias.double().square().sum()
        return total

    def clear(self) -> None:
        """Begin a new window."""
        if self.dense is not None and self.micro_steps:
            self.dense.zero_()
        self.index = self.rows = None
        if self.bias is not None:
            self.bias.zero_()
        self.micro_steps = 0
