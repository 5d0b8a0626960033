"""Prompt pooling: a bank of learned queries per condition gathers the tokens of a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facex_jhmfr.block import AttentionPrecision, attend


class PromptsPool(nn.Module):
    """Multi-head attention without projections of values and output; the scale is width^-0.5, not head width^-0.5.

    The bias of `fc` moves all keys alike and cancels in the softmax; it is kept because official files have it.

    Args:
        width: width of a token.
        heads: attention heads.
        tokens: queries of each condition, and so tokens that come out.
        conditions: how many banks there are.
        precision: "fp32": outside any autocast.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        tokens: int = 32,
        conditions: int = 2,
        precision: AttentionPrecision = "autocast",
    ) -> None:
        super().__init__()
        self.heads, self.scale, self.precision = heads, width**-0.5, precision
        self.tokens = nn.Parameter(torch.empty(conditions, heads, tokens, width // heads))
        self.fc = nn.Linear(width, width)
        nn.init.normal_(self.tokens)

    def forward(self, x: Tensor, flags: Tensor) -> Tensor:
        """x [B, tokens, width], flags int64 [B] -> [B, queries, width]."""
        k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (self.fc(x), x))
        q = self.tokens.to(k.dtype)[flags]
        return attend(q, k, v.to(k.dtype), self.precision, scale=self.scale).transpose(1, 2).flatten(2)
