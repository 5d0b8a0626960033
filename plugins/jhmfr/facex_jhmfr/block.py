"""A transformer block that may read prompts, in three residual forms, with stochastic depth.

Prompts are deep: what a block would make of them is dropped, and the next block has its own. So they only offer keys
and values here, once per condition instead of once per picture; their queries and their MLP are never computed.

    deepnorm        x = LN1(a x + DP(Attn(x))),  x = LN2(a x + DP(MLP(x))),  a = (2 depth)^(1/4)  (arXiv 2203.00555)
    prenorm         x = x + DP(Attn(LN1(x))),    x = x + DP(MLP(LN2(x)))
    res_post_norm   x = x + DP(LN1(Attn(x))),    x = x + DP(LN2(MLP(x)))  (Swin v2; JHMFR calls it postnorm)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facex.errors import ConfigError
from facex.models.common import attention, no_autocast

Residual = Literal["deepnorm", "prenorm", "res_post_norm"]
AttentionPrecision = Literal["fp32", "autocast"]
RESIDUALS: tuple[Residual, ...] = ("deepnorm", "prenorm", "res_post_norm")


def residual_scale(residual: Residual, depth: int) -> float:
    """Factor on the skip connection: DeepNet's alpha of an encoder with `depth` blocks; 1 in the other forms."""
    return (2 * depth) ** 0.25 if residual == "deepnorm" else 1.0


def initial_gain(residual: Residual, depth: int) -> float:
    """Gain of the Xavier initialisation: DeepNet's beta; 1 in the other forms."""
    return (8 * depth) ** -0.25 if residual == "deepnorm" else 1.0


def attend(
    q: Tensor, k: Tensor, v: Tensor, precision: AttentionPrecision, drop: float = 0.0, scale: float | None = None
) -> Tensor:
    """Scaled-dot-product attention [B, heads, tokens, head width]; with "fp32" outside any autocast.

    The queries are scaled before the product, so that 16-bit logits do not overflow where those scaled afterwards
    would.
    """
    if precision == "fp32":
        with no_autocast(q):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), dropout_p=drop, scale=scale)
    if not drop:
        return attention(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=drop, scale=scale)


class Attention(nn.Module):
    """Multi-head self-attention over tokens, and over the prompts of each picture's condition."""

    def __init__(
        self,
        width: int,
        heads: int,
        qkv_bias: bool = True,
        drop: float = 0.0,
        attention_drop: float = 0.0,
        precision: AttentionPrecision = "autocast",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"{heads} attention heads do not divide a width of {width}")
        self.heads, self.head_width = heads, width // heads
        self.attention_drop, self.precision = attention_drop, precision
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, prompts: Tensor | None = None, flags: Tensor | None = None) -> Tensor:
        """x [B, tokens, width], prompts [conditions, P, width], flags int64 [B] -> [B, tokens, width]."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        if prompts is not None and flags is not None:
            front = self._keys_and_values(prompts)
            k = torch.cat([front[0][flags].to(k.dtype), k], 2)
            v = torch.cat([front[1][flags].to(v.dtype), v], 2)
        out = attend(q, k, v, self.precision, self.attention_drop if self.training else 0.0)
        return self.drop(self.proj(out.transpose(1, 2).reshape(batch, tokens, width)))

    def _keys_and_values(self, prompts: Tensor) -> Tensor:
        """[conditions, P, width] -> [2, conditions, heads, P, head width]."""
        conditions, count, width = prompts.shape
        bias = None if self.qkv.bias is None else self.qkv.bias[width:]
        both = F.linear(prompts, self.qkv.weight[width:], bias)
        return both.view(conditions, count, 2, self.heads, self.head_width).permute(2, 0, 3, 1, 4)


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, inner: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, width] -> the same shape."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """Attention and MLP as residual branches.

    Args:
        width: width of a token.
        heads: attention heads.
        inner: inner width of the MLP.
        residual: form of the skip connections.
        scale: factor on them (deepnorm's alpha).
        drop_path: probability that a picture loses a branch in training; what is left is divided by 1 - drop_path.
        qkv_bias, drop, attention_drop: biases and dropout of the layers inside.
        precision: "fp32": attention outside any autocast.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        residual: Residual = "deepnorm",
        scale: float = 1.0,
        drop_path: float = 0.0,
        qkv_bias: bool = True,
        drop: float = 0.0,
        attention_drop: float = 0.0,
        precision: AttentionPrecision = "autocast",
    ) -> None:
        super().__init__()
        if residual not in RESIDUALS:
            raise ConfigError(f"residual is one of {', '.join(RESIDUALS)}, not {residual!r}")
        self.residual, self.scale, self.drop_path = residual, scale, drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, qkv_bias, drop, attention_drop, precision)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, inner, drop)

    def forward(
        self, x: Tensor, prompts: Tensor | None = None, flags: Tensor | None = None, u: Tensor | None = None
    ) -> Tensor:
        """[B, tokens, width] -> the same shape.

        prompts [conditions, P, width] with flags int64 [B]: what this block's attention reads besides. u float32 [2,
        B]: uniform draws of stochastic depth (attention, MLP); drawn here if the block needs them and has none.
        """
        u = self._draws(x, u)
        if self.residual == "prenorm":
            front = None if prompts is None else self.norm1(prompts)
            x = x + self._dropped(self.attn(self.norm1(x), front, flags), u, 0)
            return x + self._dropped(self.mlp(self.norm2(x)), u, 1)
        if self.residual == "res_post_norm":
            x = x + self._dropped(self.norm1(self.attn(x, prompts, flags)), u, 0)
            return x + self._dropped(self.norm2(self.mlp(x)), u, 1)
        x = self.norm1(self.scale * x + self._dropped(self.attn(x, prompts, flags), u, 0))
        return self.norm2(self.scale * x + self._dropped(self.mlp(x), u, 1))

    def _draws(self, x: Tensor, u: Tensor | None) -> Tensor | None:
        if not self.training or self.drop_path == 0:
            return None
        return torch.rand(2, len(x), device=x.device) if u is None else u

    def _dropped(self, branch: Tensor, u: Tensor | None, row: int) -> Tensor:
        if u is None:
            return branch
        keep = 1 - self.drop_path
        return branch / keep * (keep + u[row]).floor().to(branch.dtype).view(-1, 1, 1)
