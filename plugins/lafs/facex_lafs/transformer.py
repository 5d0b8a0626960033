"""The transformer of fViT under the official parameter names (Sun and Tzimiropoulos, BMVC 2022; LAFS, CVPR 2024).

Its scores are scaled by the width of the tokens, dim^-0.5, not by that of a head, its position embeddings start with
unit variance, and stochastic depth has one rate in all layers: checkpoints depend on the first, training on the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facex.models.checkpointing import checkpointed
from facex.models.common import attention


class DropPath(nn.Module):
    """Drops a whole residual branch of a sample with probability `p` in training; what is kept is divided by 1 - p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> the same shape."""
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.p
        return x * (keep.to(x.dtype) / (1 - self.p))


class Attention(nn.Module):
    """Multi-head self-attention, `scale` on the scores; no dropout on the weights."""

    def __init__(self, dim: int, heads: int, head_dim: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, dim] -> the same shape."""
        batch, tokens, _ = x.shape
        q, k, v = self.to_qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = attention(q, k, v, self.scale)
        return self.to_out(out.transpose(1, 2).reshape(batch, tokens, -1))


class FeedForward(nn.Module):
    """Linear, GELU (exact), Linear, each followed by dropout."""

    def __init__(self, dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, dim] -> the same shape."""
        return self.net(x)


class PreNorm(nn.Module):
    """fn(LayerNorm(x))."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, dim] -> the same shape."""
        return self.fn(self.norm(x))


class Residual(nn.Module):
    """x + drop_path(fn(x))."""

    def __init__(self, fn: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.fn = fn
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, dim] -> the same shape."""
        return x + self.drop_path(self.fn(x))


class Layer(nn.ModuleList):
    """Attention and MLP, each pre-normalised and residual; a list, because the official names count them 0 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, dim] -> the same shape."""
        for branch in self:
            x = branch(x)
        return x


class Transformer(nn.Module):
    """`depth` layers.

    Args:
        dim: width of a token.
        depth: number of layers.
        heads: attention heads, of `head_dim` numbers each.
        head_dim: width of a head.
        mlp_dim: inner width of the MLP.
        scale: factor on the attention scores.
        dropout: rate of every dropout.
        drop_path: rate of stochastic depth, the same in all layers.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        scale: float,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = False
        self.layers = nn.ModuleList(
            Layer(
                [
                    Residual(PreNorm(dim, Attention(dim, heads, head_dim, scale, dropout)), drop_path),
                    Residual(PreNorm(dim, FeedForward(dim, mlp_dim, dropout)), drop_path),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, dim] -> the same shape."""
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.layers:
            x = checkpointed(layer, x) if recompute else layer(x)
        return x
