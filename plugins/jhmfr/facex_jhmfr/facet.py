"""FaceT: a plain vision transformer with prompts for each condition of a face (holistic, masked).

Source: Zhu et al., IEEE TIFS 18, 3388-3400, 2023. State-dict names and shapes are those of the published code.

    patch_embed     8x8 patches of a 112x112 picture, row by row: 14 x 14 = 196 tokens, plus a position each
    blocks          the first `prompt_layers` of them also read 32 prompts of the picture's condition
    prompts_pool    32 queries of the condition gather the tokens (only with prompts); there is no final norm
    pool            mean over tokens, the first token, or a softmax over tokens as weights ("adj")
    class_head      Linear and BatchNorm1d without scale and shift, float32 whatever the autocast
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError, DataError
from facex.models.checkpointing import checkpointed
from facex.models.common import as_size, check_input, float_tail
from facex.models.registry import register_backbone
from facex_jhmfr.block import AttentionPrecision, Block, Residual, initial_gain, residual_scale
from facex_jhmfr.patches import PatchEmbed, sincos_positions
from facex_jhmfr.prompts_pool import PromptsPool

Pool = Literal["mean", "cls", "adj"]


@register_backbone("facet_tiny", "FaceT of width 192", embed_dim=192, num_heads=3)
@register_backbone("facet_small", "FaceT of width 384", embed_dim=384, num_heads=6)
@register_backbone("facet_base", "FaceT-B of JHMFR")
class FaceT(nn.Module):
    """FaceT: float32 images [B, 3, H, W] and flags [B] -> embeddings float32 [B, embedding_size].

    Args:
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: inner width of the MLP over `embed_dim`.
        patch_size: side of a patch; it must divide the picture.
        embedding_size: length of the embedding.
        input_size: side of the picture, or (height, width); 112 in every published checkpoint.
        prompt_layers: how many blocks, from the first, read prompts; 0: neither prompts nor prompt pooling.
        prompt_tokens: prompts of a block, and queries of the pooling.
        conditions: kinds of faces with prompts of their own (2: holistic and masked).
        residual: "deepnorm", "prenorm" or "res_post_norm" (JHMFR's postnorm).
        pool: how the tokens become one.
        positions: learned, or fixed sines and cosines.
        class_head: project to `embedding_size` and normalise; without it the pooled token is the embedding.
        drop_path_rate: probability of losing a branch in the last block; it rises linearly from 0 in the first.
        qkv_bias: biases of queries, keys and values.
        drop_rate: dropout of positions and of the layers inside blocks.
        attention_drop_rate: dropout of attention weights.
        attention_precision: "autocast": in the run's precision (the kernels sum the softmax in float32 themselves);
            "fp32": attention outside any autocast.
        freeze_degenerate: leave out of training what has no gradient but rounding noise (biases that the batch norm or
            a softmax takes away again), which Adam would move at full rate.
        allow_unused_prompts: accept more prompt layers than blocks, whose prompts nothing reads.
        activation_checkpointing: recompute each block in the backward pass.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        patch_size: int = 8,
        embedding_size: int = 512,
        input_size: int | Sequence[int] = 112,
        prompt_layers: int = 12,
        prompt_tokens: int = 32,
        conditions: int = 2,
        residual: Residual = "deepnorm",
        pool: Pool = "mean",
        positions: Literal["learned", "sincos"] = "learned",
        class_head: bool = True,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        attention_precision: AttentionPrecision = "autocast",
        freeze_degenerate: bool = False,
        allow_unused_prompts: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.patch_size, self.conditions = as_size(input_size), patch_size, conditions
        self.embed_dim, self.depth, self.residual, self.pool = embed_dim, depth, residual, pool
        self.prompt_layers, self.activation_checkpointing = prompt_layers, activation_checkpointing
        self._check(num_heads, prompt_tokens, drop_path_rate, allow_unused_prompts)
        self.grid = self.input_size[0] // patch_size, self.input_size[1] // patch_size
        tokens = self.grid[0] * self.grid[1]
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim))
        else:
            self.register_buffer("pos_embed", sincos_positions(self.grid, embed_dim), persistent=False)
        self.prompts: nn.Parameter | None = None
        if prompt_layers:
            self.prompts = nn.Parameter(torch.randn(prompt_layers, conditions, prompt_tokens, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.drop = nn.Dropout(drop_rate)
        self.drop_path_rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        inner, scale = int(embed_dim * mlp_ratio), residual_scale(residual, depth)
        inside = (qkv_bias, drop_rate, attention_drop_rate, attention_precision)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, inner, residual, scale, r, *inside) for r in self.drop_path_rates
        )
        self.prompts_pool: PromptsPool | None = None
        if prompt_layers:
            self.prompts_pool = PromptsPool(embed_dim, num_heads, prompt_tokens, conditions, attention_precision)
        self.class_head: nn.Sequential | None = None
        if class_head:
            self.class_head = nn.Sequential(
                nn.Linear(embed_dim, embedding_size), nn.BatchNorm1d(embedding_size, affine=False)
            )
        self._initialise(embedding_size)
        self.embedding_size = embedding_size if class_head else embed_dim
        if freeze_degenerate:
            for parameter in self.degenerate().values():
                parameter.requires_grad_(False)

    def _check(self, heads: int, tokens: int, drop_path: float, unused: bool) -> None:
        height, width = self.input_size
        if self.patch_size < 1 or height % self.patch_size or width % self.patch_size:
            raise ConfigError(f"FaceT: patches of {self.patch_size} pixels do not divide a picture of {height}x{width}")
        if self.depth < 1 or heads < 1 or self.embed_dim % heads:
            raise ConfigError(f"FaceT: {heads} heads must divide embed_dim {self.embed_dim}; at least one block")
        if self.pool not in ("mean", "cls", "adj"):
            raise ConfigError(f"FaceT: pool is mean, cls or adj, not {self.pool!r}")
        if not 0 <= drop_path < 1:
            raise ConfigError(f"FaceT: drop_path_rate {drop_path} must be in [0, 1)")
        if self.prompt_layers < 0 or tokens < 1 or self.conditions < 1:
            raise ConfigError(
                f"FaceT: prompt_layers {self.prompt_layers}, prompt_tokens {tokens} and conditions {self.conditions} "
                "cannot be"
            )
        if self.prompt_layers > self.depth and not unused:
            raise ConfigError(
                f"FaceT: prompts for {self.prompt_layers} layers, but there are {self.depth} blocks; lower "
                "prompt_layers (or set allow_unused_prompts for an official file that has them)"
            )

    def _initialise(self, embedding_size: int) -> None:
        gain = initial_gain(self.residual, self.depth)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # the published rule goes by the number of outputs alone
                nn.init.xavier_uniform_(module.weight, 1.0 if module.out_features == embedding_size else gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def degenerate(self) -> dict[str, nn.Parameter]:
        """Parameters without gradient by their place: they shift every key of a softmax, or every row of the batch."""
        names = []
        if self.prompts_pool is not None:
            names.append("prompts_pool.fc.bias")
        if self.class_head is not None:
            last = f"blocks.{self.depth - 1}."
            names += ["class_head.0.bias", last + ("mlp.fc2.bias" if self.residual == "prenorm" else "norm2.bias")]
        return {name: self.get_parameter(name) for name in names}

    @property
    def branches(self) -> int:
        """How many uniform draws a picture needs for stochastic depth: two for each block whose rate is above 0."""
        return 2 * sum(rate > 0 for rate in self.drop_path_rates)

    def forward(self, x: Tensor, flags: Tensor | None = None, u: Tensor | None = None) -> Tensor:
        """Images float32 [B, 3, H, W] -> embeddings float32 [B, embedding_size], not normalised.

        flags [B]: condition of each picture, 0 holistic (the default), 1 masked; any number type. u [branches, B]:
        uniform draws of stochastic depth in the order of the branches; drawn afresh in training if they are not given.

        Raises:
            ConfigError: pictures of another size. DataError: a flag that is no condition.
        """
        check_input(self, x)
        flags = self.read_flags(flags, x)
        tokens = self.run_blocks(self.drop(self.patch_embed(x) + self.pos_embed), flags, u)
        if self.prompts_pool is not None:
            tokens = self.prompts_pool(tokens, flags)
        vector = self.pooled(tokens.float())
        return vector if self.class_head is None else float_tail(vector, *self.class_head)

    def read_flags(self, flags: Tensor | None, x: Tensor) -> Tensor:
        """int64 [B] on the device of `x`; DataError for a value outside 0 .. conditions - 1."""
        if flags is None:
            return torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if flags.shape != (len(x),):
            raise DataError(f"FaceT: flags of shape {list(flags.shape)} for {len(x)} pictures")
        whole = flags.to(torch.int64)
        if not torch.compiler.is_compiling():
            good = ((whole >= 0) & (whole < self.conditions) & (whole == flags)).all()
            if flags.device.type != "cpu":
                torch._assert_async(good)
            elif not bool(good):
                raise DataError(f"FaceT: the mask flag {flags.tolist()} has values outside 0..{self.conditions - 1}")
        return whole.to(x.device)

    def run_blocks(self, tokens: Tensor, flags: Tensor | None = None, u: Tensor | None = None) -> Tensor:
        """Tokens through all blocks, with prompts where flags are given: [B, tokens, width] -> the same shape."""
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for block, prompts, draws in zip(self.blocks, self._prompts(flags), self._draws(u), strict=True):
            inputs = (tokens, prompts, None if prompts is None else flags, draws)
            tokens = checkpointed(block, *inputs) if recompute else block(*inputs)
        return tokens

    def block_outputs(self, x: Tensor, flags: Tensor | None = None, u: Tensor | None = None) -> list[Tensor]:
        """What each block makes of its whole sequence, [B, P + tokens, width] where it reads P prompts: for inspection.
        Here prompts are ordinary tokens, with queries of their own that `forward` never computes."""
        flags = self.read_flags(flags, x)
        tokens, outputs = self.drop(self.patch_embed(x) + self.pos_embed), []
        for block, prompts, draws in zip(self.blocks, self._prompts(flags), self._draws(u), strict=True):
            front = 0
            if prompts is not None:
                tokens, front = torch.cat([prompts[flags], tokens], 1), prompts.shape[1]
            outputs.append(block(tokens, None, None, draws))
            tokens = outputs[-1][:, front:]
        return outputs

    def _prompts(self, flags: Tensor | None) -> list[Tensor | None]:
        count = 0 if self.prompts is None or flags is None else min(self.prompt_layers, self.depth)
        first = [] if self.prompts is None else list(self.prompts[:count])
        return [*first, *[None] * (self.depth - count)]

    def _draws(self, u: Tensor | None) -> list[Tensor | None]:
        """Two rows of u for each block that may drop a branch."""
        if u is not None and len(u) != self.branches:
            raise ConfigError(f"FaceT: {len(u)} rows of draws for {self.branches} branches of stochastic depth")
        row = 0
        found: list[Tensor | None] = []
        for rate in self.drop_path_rates:
            found.append(u[row : row + 2] if u is not None and rate > 0 else None)
            row += 2 if rate > 0 else 0
        return found

    def pooled(self, tokens: Tensor) -> Tensor:
        """[B, tokens, width] -> [B, width]."""
        if self.pool == "cls":
            return tokens[:, 0]
        if self.pool == "adj":
            return (tokens.softmax(1) * tokens).sum(1)
        return tokens.mean(1)
