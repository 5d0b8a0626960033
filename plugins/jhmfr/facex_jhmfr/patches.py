"""Pictures as rows of patches, back again, and the positions of patches in a grid.

JHMFR flattens a patch as (row, column, channel), the channel last. A convolution's kernel is (channel, row, column):
`weight.view(width, p, p, 3).permute(0, 3, 1, 2)` turns the weight of `PatchEmbed` into one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facex.errors import ConfigError


def patchify(images: Tensor, patch: int) -> Tensor:
    """[B, 3, H, W] -> [B, tokens, patch * patch * 3]: patches row by row, each flattened as (row, column, channel)."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    cut = images.reshape(batch, channels, rows, patch, columns, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`; `grid` is (rows, columns) of patches."""
    batch, rows, columns = len(patches), *grid
    cut = patches.reshape(batch, rows, columns, patch, patch, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, rows * patch, columns * patch)


def sincos_positions(grid: tuple[int, int], dim: int, temperature: float = 10000.0) -> Tensor:
    """Two-dimensional sine-cosine positions, float32 [1, rows * columns, dim].

    A patch in row i and column j gets [sin(i w), cos(i w), sin(j w), cos(j w)] with w_k = temperature^(-k / q),
    k = 0 .. q - 1, q = dim / 4.

    Raises:
        ConfigError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise ConfigError(f"sine-cosine positions need a width that 4 divides, not {dim}")
    rows, columns = grid
    quarter = dim // 4
    omega = temperature ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    i = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)[:, None] * omega
    j = torch.arange(columns, dtype=torch.float64).repeat(rows)[:, None] * omega
    return torch.cat([i.sin(), i.cos(), j.sin(), j.cos()], 1)[None].float()


class PatchEmbed(nn.Module):
    """Each patch through one linear layer: float32 [B, 3, H, W] -> [B, tokens, width]."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.to_token = nn.Linear(patch * patch * 3, width)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens row by row, without positions."""
        return self.to_token(patchify(images, self.patch))
