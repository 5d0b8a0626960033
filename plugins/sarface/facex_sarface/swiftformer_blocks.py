"""The blocks of SwiftFormer (Shaker et al., ICCV 2023), with the official names of their tensors.

A stage is convolutional blocks and, last, one block with efficient additive attention: one query for the whole map, so
its cost grows with the number of tokens and not with its square.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ATTENTION_SCALE_INIT = 1e-5  # of the attention's and the MLP's branch


class ConvEncoder(nn.Module):
    """x + s * (1x1, GELU, 1x1, BatchNorm, depth-wise 3x3 of x): [B, dim, H, W] -> the same shape."""

    def __init__(self, dim: int, hidden: int, kernel: int = 3) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.BatchNorm2d(dim)
        self.pwconv1 = nn.Conv2d(dim, hidden, 1)
        self.pwconv2 = nn.Conv2d(hidden, dim, 1)
        self.layer_scale = nn.Parameter(torch.ones(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The residual step."""
        y = self.pwconv1(self.norm(self.dwconv(x)))
        found: Tensor = x + self.layer_scale * self.pwconv2(functional.gelu(y))
        return found


class LocalRepresentation(ConvEncoder):
    """The same with a hidden layer as wide as the block: what surrounds a token, before attention."""

    def __init__(self, dim: int, kernel: int = 3) -> None:
        super().__init__(dim, dim, kernel)


class Mlp(nn.Module):
    """BatchNorm, 1x1, GELU, 1x1: [B, dim, H, W] -> the same shape."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Without a residual."""
        found: Tensor = self.fc2(functional.gelu(self.fc1(self.norm1(x))))
        return found


class AdditiveAttention(nn.Module):
    """Efficient additive attention over tokens [B, N, inputs] -> [B, N, dim], one head.

    With q and k of unit length, weights a = l2 over the tokens of (q . w_g) / sqrt(dim) and the pooled query
    g = sum_n a_n q_n, the result is final(Proj(g * k) + q).
    """

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.to_query = nn.Linear(inputs, dim)
        self.to_key = nn.Linear(inputs, dim)
        self.w_g = nn.Parameter(torch.randn(dim, 1))
        self.Proj = nn.Linear(dim, dim)
        self.final = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens -> tokens."""
        query = functional.normalize(self.to_query(x), dim=-1)
        key = functional.normalize(self.to_key(x), dim=-1)
        weights = functional.normalize(query @ self.w_g * self.scale, dim=1)
        pooled = (weights * query).sum(1, keepdim=True)
        found: Tensor = self.final(self.Proj(pooled * key) + query)
        return found


class AttentionEncoder(nn.Module):
    """Local representation, then attention over all tokens, then an MLP, each a residual step: [B, dim, H, W]."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.local_representation = LocalRepresentation(dim)
        self.attn = AdditiveAttention(dim, dim)
        self.linear = Mlp(dim, int(dim * mlp_ratio))
        self.layer_scale_1 = nn.Parameter(ATTENTION_SCALE_INIT * torch.ones(dim, 1, 1))
        self.layer_scale_2 = nn.Parameter(ATTENTION_SCALE_INIT * torch.ones(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The three steps; tokens are the pixels row by row."""
        x = self.local_representation(x)
        batch, dim, height, width = x.shape
        attended = self.attn(x.permute(0, 2, 3, 1).reshape(batch, height * width, dim))
        x = x + self.layer_scale_1 * attended.reshape(batch, height, width, dim).permute(0, 3, 1, 2)
        found: Tensor = x + self.layer_scale_2 * self.linear(x)
        return found


def stage(dim: int, depth: int, mlp_ratio: float) -> nn.Sequential:
    """depth - 1 convolutional blocks and one with attention."""
    blocks: list[nn.Module] = [ConvEncoder(dim, int(dim * mlp_ratio)) for _ in range(depth - 1)]
    return nn.Sequential(*blocks, AttentionEncoder(dim, mlp_ratio))
