"""What benchmarks/facet.py compares with: a vision transformer with prompts, its masked autoencoder and full-matrix ArcFace, written
plainly, without facex. Blocks are timm's where timm is installed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALE, MARGIN, MASK_RATIO = 64.0, 0.5, 0.75


@dataclass(frozen=True)
class Sizes:
    """Shapes of both implementations."""

    batch: int = 256
    classes: int = 2_058_932
    dim: int = 768
    depth: int = 12
    heads: int = 12
    prompts: int = 32
    decoder_dim: int = 516
    decoder_depth: int = 8
    decoder_heads: int = 12
    image: int = 112
    patch: int = 8
    embedding: int = 512

    @property
    def tokens(self) -> int:
        """Patches of a picture."""
        return (self.image // self.patch) ** 2


class PlainBlock(nn.Module):
    """A pre-norm block with scaled_dot_product_attention, as timm's."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, int(mlp_ratio * dim)), nn.GELU(), nn.Linear(int(mlp_ratio * dim), dim))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def blocks(dim: int, depth: int, heads: int, mlp_ratio: float = 4.0) -> nn.ModuleList:
    """timm's blocks, or ours in their place."""
    try:
        from timm.models.vision_transformer import Block  # type: ignore[import-not-found]
    except ImportError:
        return nn.ModuleList(PlainBlock(dim, heads, mlp_ratio) for _ in range(depth))
    return nn.ModuleList(Block(dim, heads, mlp_ratio, qkv_bias=True) for _ in range(depth))


def source() -> str:
    """Whose blocks they are."""
    try:
        import timm  # type: ignore[import-not-found]
    except ImportError:
        return "plain PyTorch ViT"
    return f"timm {timm.__version__}'s blocks"


class PlainFaceT(nn.Module):
    """Prompts of each picture's condition in front of every block, prompt pooling, the mean, Linear and BatchNorm."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads = s.heads
        self.embed = nn.Conv2d(3, s.dim, s.patch, s.patch)
        self.positions = nn.Parameter(torch.zeros(1, s.tokens, s.dim))
        self.prompts = nn.Parameter(torch.randn(s.depth, 2, s.prompts, s.dim))
        self.blocks = blocks(s.dim, s.depth, s.heads)
        self.queries = nn.Parameter(torch.randn(2, s.heads, s.prompts, s.dim // s.heads))
        self.keys = nn.Linear(s.dim, s.dim)
        self.tail = nn.Sequential(nn.Linear(s.dim, s.embedding), nn.BatchNorm1d(s.embedding, affine=False))

    def forward(self, x: Tensor, flags: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        count = self.prompts.shape[2]
        for block, prompts in zip(self.blocks, self.prompts, strict=True):
            tokens = block(torch.cat([prompts[flags].to(tokens.dtype), tokens], 1))[:, count:]
        k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (self.keys(tokens), tokens))
        q = self.queries[flags].to(k.dtype)
        pooled = F.scaled_dot_product_attention(q, k, v.to(k.dtype), scale=tokens.shape[2] ** -0.5)
        return self.tail(pooled.transpose(1, 2).flatten(2).mean(1))


class PlainMAE(nn.Module):
    """A quarter of the patches through the encoder, all of them through the decoder, mean squared error of the hidden ones."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patch, self.hidden = s.patch, int(MASK_RATIO * s.tokens)
        self.embed = nn.Linear(3 * s.patch**2, s.dim)
        self.positions = nn.Parameter(torch.zeros(1, s.tokens, s.dim))
        self.encoder = blocks(s.dim, s.depth, s.heads)
        self.narrow = nn.Linear(s.dim, s.decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, s.decoder_dim))
        self.places = nn.Parameter(torch.zeros(1, s.tokens, s.decoder_dim), False)
        self.decoder = blocks(s.decoder_dim, s.decoder_depth, s.decoder_heads, 3.0)
        self.pixels = nn.Linear(s.decoder_dim, 3 * s.patch**2)

    def forward(self, x: Tensor) -> Tensor:
        p, side = self.patch, x.shape[2] // self.patch
        patches = x.reshape(len(x), 3, side, p, side, p).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        order = torch.rand(patches.shape[:2], device=x.device).argsort(1)[..., None]
        masked, visible = order[:, : self.hidden], order[:, self.hidden :]
        tokens = self.embed(patches) + self.positions
        tokens = tokens.gather(1, visible.expand(-1, -1, tokens.shape[2]))
        for block in self.encoder:
            tokens = block(tokens)
        seen = self.narrow(tokens)
        empty = self.mask_token + self.places.expand(len(x), -1, -1).gather(1, masked.expand(-1, -1, seen.shape[2]))
        decoded = torch.cat([empty.to(seen.dtype), seen], 1)
        for block in self.decoder:
            decoded = block(decoded)
        target = patches.gather(1, masked.expand(-1, -1, patches.shape[2]))
        return F.mse_loss(self.pixels(decoded[:, : self.hidden]).float(), target)


def arcface(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the whole B x C matrix."""
    cos = F.linear(F.normalize(x), F.normalize(weight)).float().clamp(-1, 1)
    target = cos.gather(1, labels[:, None])
    moved = target * math.cos(MARGIN) - (1 - target * target).clamp_min(1e-12).sqrt() * math.sin(MARGIN)
    return F.cross_entropy(SCALE * cos.scatter(1, labels[:, None], moved.to(cos.dtype)), labels)


def adamw(parameters: Any, device: str) -> torch.optim.Optimizer:
    """The fastest AdamW that PyTorch has there."""
    return torch.optim.AdamW(parameters, 1e-4, weight_decay=0.05, fused=device == "cuda")
