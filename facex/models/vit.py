"""Vision transformer in insightface's form: no class token, all tokens flattened into the embedding.

Source: insightface `arcface_torch/backbones/vit.py` (7fadd420); state-dict names and shapes are its own. CVLface's
plain ViT has the same names (patches of 8, other widths of the MLP).

    patch_embed      9x9 patches of a 112x112 picture, row by row: 12 x 12 = 144 tokens (4 pixels right and below unused)
    blocks           x + drop(attention(norm1(x))), x + drop(mlp(norm2(x)))
    norm, feature    LayerNorm, tokens flattened, Linear, BatchNorm1d, Linear, BatchNorm1d: float32 whatever the autocast

All random draws of a pass (masked tokens, dropped branches) are made at its start and may be given instead (`Draws`), so
that a checkpointed block repeats them and a recorded pass can be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facex.errors import ConfigError
from facex.models.checkpointing import checkpointed
from facex.models.common import as_size, attention, check_input, float_tail, no_autocast
from facex.models.registry import register_backbone

OFFICIAL_MASK_RATIO = 0.1  # what insightface's code masks whenever its mask_ratio is above 0
FEATURE_EPS = 2e-5


class Draws(NamedTuple):
    """The random numbers of one training pass; None where the network needs none."""

    noise: Tensor | None  # float32 [B, tokens], uniform: the tokens with the smallest values are kept
    keep: (
        Tensor | None
    )  # float32 [branches, B]: 1 = the residual branch is kept; two rows a block whose rate is above 0


class Attention(nn.Module):
    """Multi-head self-attention; scores and softmax in float32 unless `precision` is "autocast"."""

    def __init__(self, width: int, heads: int, precision: str) -> None:
        super().__init__()
        self.heads, self.precision = heads, precision
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, width] -> the same shape."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.precision == "fp32":
            with no_autocast(x):
                out = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        else:
            out = attention(q, k, v, (width // self.heads) ** -0.5)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Linear, ReLU6, Linear."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, width] -> the same shape."""
        return self.fc2(F.relu6(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP as residual branches, each of which may be dropped per sample (stochastic depth)."""

    def __init__(self, width: int, heads: int, inner: int, drop_rate: float, precision: str) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, precision)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, inner)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, tokens, width] -> the same shape. `keep` [2, B]: which samples keep the attention, and the MLP."""
        x = x + self._dropped(self.attn(self.norm1(x)), keep, 0)
        return x + self._dropped(self.mlp(self.norm2(x)), keep, 1)

    def _dropped(self, branch: Tensor, keep: Tensor | None, row: int) -> Tensor:
        if keep is None:
            return branch
        return branch * (keep[row] / (1 - self.drop_rate)).to(branch.dtype).view(-1, 1, 1)


class PatchEmbed(nn.Module):
    """Patches as tokens, row by row."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, tokens, width]."""
        return self.proj(x).flatten(2).transpose(1, 2)


_T = {"embed_dim": 256, "depth": 12}
_S = {"embed_dim": 512, "depth": 12}
_B = {"embed_dim": 512, "depth": 24, "activation_checkpointing": True}
_L = {"embed_dim": 768, "depth": 24, "activation_checkpointing": True}
_H = {"embed_dim": 1024, "depth": 48, "activation_checkpointing": True}


@register_backbone("vit_t", "insightface's ViT-T", **_T, drop_path_rate=0.1, mask_ratio=0.1)
@register_backbone("vit_t_dp005_mask0", "ViT-T for WebFace42M", **_T, drop_path_rate=0.05, mask_ratio=0.0)
@register_backbone("vit_s", "insightface's ViT-S", **_S, drop_path_rate=0.1, mask_ratio=0.1)
@register_backbone("vit_s_dp005_mask_0", "ViT-S for WebFace42M", **_S, drop_path_rate=0.05, mask_ratio=0.0)
@register_backbone("vit_b", "insightface's ViT-B, checkpointed", **_B, drop_path_rate=0.1, mask_ratio=0.1)
@register_backbone("vit_b_dp005_mask_005", "ViT-B for WebFace42M", **_B, drop_path_rate=0.05, mask_ratio=0.05)
@register_backbone("vit_l_dp005_mask_005", "ViT-L for WebFace42M", **_L, drop_path_rate=0.05, mask_ratio=0.05)
@register_backbone("vit_h", "insightface's ViT-H, checkpointed", **_H, drop_path_rate=0.1, mask_ratio=0.0)
@register_backbone("vit_s_patch8", "CVLface's small ViT", **_S, patch_size=8, mlp_ratio=5.0, mask_ratio=0.0)
@register_backbone(
    "vit_b_patch8",
    "CVLface's base ViT",
    embed_dim=512,
    depth=24,
    num_heads=16,
    patch_size=8,
    mlp_ratio=3.0,
    mask_ratio=0.0,
)
class VisionTransformer(nn.Module):
    """ViT: float32 images [B, 3, H, W] -> embeddings float32 [B, embedding_size].

    Args:
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: inner width of the MLP over `embed_dim`.
        patch_size: side of a patch; what is left over right and below is not used.
        embedding_size: length of the embedding.
        input_size: side of the picture, or (height, width); 112 in every published checkpoint.
        drop_path_rate: probability of dropping a branch in the last block; it rises linearly from 0 in the first.
        mask_ratio: share of the tokens left out in training and filled with `mask_token` before the embedding.
        official_masking: mask 0.1 of the tokens whenever `mask_ratio` is above 0, as insightface's code does.
        mask_token: have the parameter (insightface always; CVLface only with a mask_ratio above 0).
        attention_precision: "fp32": scores and softmax in float32, as published; "autocast": in the autocast's
            precision (faster kernels; these accumulate the softmax in float32 themselves).
        activation_checkpointing: recompute each block in the backward pass.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        patch_size: int = 9,
        embedding_size: int = 512,
        input_size: int | Sequence[int] = 112,
        drop_path_rate: float = 0.1,
        mask_ratio: float = 0.0,
        official_masking: bool = False,
        mask_token: bool = True,
        attention_precision: Literal["fp32", "autocast"] = "fp32",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.input_size = as_size(input_size)
        self.embedding_size = embedding_size
        self.activation_checkpointing = activation_checkpointing
        self.tokens = (self.input_size[0] // patch_size) * (self.input_size[1] // patch_size)
        if embed_dim % num_heads or self.tokens < 1 or depth < 1:
            raise ConfigError(f"ViT: {num_heads} heads must divide embed_dim {embed_dim}; at least one patch and block")
        if not (0 <= mask_ratio < 1 and 0 <= drop_path_rate < 1):
            raise ConfigError(f"ViT: mask_ratio {mask_ratio} and drop_path_rate {drop_path_rate} must be in [0, 1)")
        if mask_ratio > 0 and not mask_token:
            raise ConfigError(f"ViT: mask_ratio {mask_ratio} needs mask_token: true")
        self.mask_ratio = OFFICIAL_MASK_RATIO if official_masking and mask_ratio > 0 else mask_ratio
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if mask_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.tokens, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        inner = int(embed_dim * mlp_ratio)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, inner, rate, attention_precision) for rate in rates)
        self.norm = nn.LayerNorm(embed_dim)
        self.feature = nn.Sequential(
            nn.Linear(embed_dim * self.tokens, embed_dim, bias=False),
            nn.BatchNorm1d(embed_dim, eps=FEATURE_EPS),
            nn.Linear(embed_dim, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=FEATURE_EPS),
        )
        self._initialise()

    def _initialise(self) -> None:
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def kept_tokens(self) -> int:
        """How many tokens of a sample are left in training."""
        return int(self.tokens * (1 - self.mask_ratio))

    def draw(self, batch: int, device: torch.device) -> Draws:
        """Fresh random numbers for one training pass over `batch` samples, from torch's generator of the device."""
        noise = torch.rand(batch, self.tokens, device=device) if self.mask_ratio > 0 else None
        rates = [block.drop_rate for block in self.blocks if block.drop_rate > 0 for _ in range(2)]  # type: ignore[operator]
        if not rates:
            return Draws(noise, None)
        floor = torch.tensor(rates, device=device).view(-1, 1)
        return Draws(noise, (torch.rand(len(rates), batch, device=device) >= floor).float())

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Images float32 [B, 3, H, W] -> embeddings float32 [B, embedding_size], not normalised.

        `draws`: random numbers to use instead of fresh ones; only in training.
        """
        check_input(self, x)
        if self.training and draws is None:
            draws = self.draw(x.shape[0], x.device)
        noise, keep = draws if self.training and draws is not None else Draws(None, None)
        tokens = self.patch_embed(x) + self.pos_embed
        places = None
        if noise is not None:
            places = noise.argsort(dim=1)  # the first `kept_tokens` of these stay
            kept = places[:, : self.kept_tokens, None].expand(-1, -1, tokens.shape[2])
            tokens = tokens.gather(1, kept)
        tokens = self._blocks(tokens, keep)
        with no_autocast(tokens):
            tokens = self.norm(tokens.to(self.norm.weight.dtype))
        if places is not None:
            tokens = self._filled(tokens, places)
        return float_tail(tokens.flatten(1), *self.feature)

    def _blocks(self, tokens: Tensor, keep: Tensor | None) -> Tensor:
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        row = 0
        for block in self.blocks:
            own = None
            if keep is not None and block.drop_rate > 0:  # type: ignore[operator]
                own, row = keep[row : row + 2], row + 2
            tokens = checkpointed(block, tokens, own) if recompute else block(tokens, own)
        return tokens

    def _filled(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Tokens back at their places, `mask_token` where one was left out."""
        assert self.mask_token is not None
        missing = self.tokens - tokens.shape[1]
        every = torch.cat([tokens, self.mask_token.to(tokens.dtype).expand(len(tokens), missing, -1)], dim=1)
        return every.gather(1, places.argsort(dim=1)[:, :, None].expand_as(every))
