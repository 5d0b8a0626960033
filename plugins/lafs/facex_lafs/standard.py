"""The ablation without landmarks: fViT over patches at fixed places, with noise and shuffling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from facex.models.common import check_input
from facex.models.registry import register_backbone
from facex.ops import sample_patches
from facex_lafs.networks import FViT, takes_options_of

NOISE_SIGMA = 3.0  # pixels


@register_backbone("fvit_b_standard", "fViT over patches at fixed places (ablation of LAFS)")
@takes_options_of(FViT)
class StandardCoordinateViT(FViT):
    """fViT whose patches are read around fixed places: number k at (p/2 + p (k div r), p/2 + p (k mod r)), r = sqrt(N).

    Their tokens are in the order of the rows of the picture and not transposed, but half a pixel off like all of Part
    fViT's.

    Args:
        random_prob: add noise of 3 pixels to every coordinate (in evaluation too, as officially).
        shuffle: take N places at random with replacement.
        options: of FViT.
    """

    def __init__(self, *, random_prob: bool = False, shuffle: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.random_prob, self.shuffle = random_prob, shuffle

    def places(self, batch: int, device: torch.device) -> Tensor:
        """The fixed places (x, y) in pixels [batch, N, 2]."""
        side, p = math.isqrt(self.num_patches), self.patch_size
        k = torch.arange(self.num_patches, device=device)
        places = torch.stack([p / 2 + p * (k // side), p / 2 + p * (k % side)], 1).float()
        return places.expand(batch, -1, -1)

    def landmarks(self, batch: int, device: torch.device, noise: Tensor | None, index: Tensor | None) -> Tensor:
        """Places with noise (unit normal [B, N, 2]) and order (int64 [B, N, 1]); those that are wanted and not given
        are drawn."""
        theta = self.places(batch, device)
        if self.random_prob:
            theta = theta + NOISE_SIGMA * (torch.randn_like(theta) if noise is None else noise)
        if self.shuffle:
            n = self.num_patches
            index = torch.randint(0, n, (batch, n, 1), device=device) if index is None else index
            theta = theta.gather(1, index.expand(-1, -1, 2))
        return theta

    def patches(self, x: Tensor, landmarks: Tensor) -> Tensor:
        """Tokens [B, N, 3 p^2]: row r, column c of the grid has landmark number c * side + r, feature (y * p + x) * 3
        + channel."""
        batch, p, side = len(x), self.patch_size, math.isqrt(self.num_patches)
        tokens = sample_patches(x, landmarks, p).view(batch, side, side, p, p, 3)
        return tokens.permute(0, 2, 1, 4, 3, 5).reshape(batch, side * side, p * p * 3)

    def forward(self, x: Tensor, noise: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Pictures [B, 3, H, W] (or tokens) -> embeddings float32 [B, dim]; draws may be given."""
        if x.ndim == 4:
            check_input(self, x)
            x = self.patches(x, self.landmarks(len(x), x.device, noise, index))
        return self.embed_tokens(x)
