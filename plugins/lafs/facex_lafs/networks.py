"""fViT and Part fViT: a transformer over patches of a grid, or over patches around learned landmarks.

Parameter names and their order are those of the official state dicts, so files load strictly, both ways.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import as_size, check_input, float_tail, no_autocast
from facex.models.registry import register_backbone
from facex.ops import sample_patches
from facex_lafs.landmark_cnn import COORDINATE_MAX, LandmarkCNN, normalise_landmarks, output_layer
from facex_lafs.transformer import Transformer

Network = TypeVar("Network", bound=nn.Module)
_B = {"dim": 768, "depth": 12, "heads": 11, "mlp_dim": 2048}
_S = {"dim": 192, "depth": 6, "heads": 3, "mlp_dim": 384, "num_patches": 64, "input_size": 64, "coordinate_max": 63.0}


def takes_options_of(base: type[nn.Module]) -> Callable[[type[Network]], type[Network]]:
    """Decorates a class whose constructor hands `**options` to `base`: its signature names them, so that a misspelt one
    is refused by name."""

    def decorate(network: type[Network]) -> type[Network]:
        own = [p for p in inspect.signature(network).parameters.values() if p.kind is not p.VAR_KEYWORD]
        both = [*inspect.signature(base).parameters.values(), *own]
        network.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in both])  # type: ignore[attr-defined]
        return network

    return decorate


@register_backbone("fvit_b", "fViT of LAFS: patches of a grid", **_B)
@register_backbone(
    "fvit_s", "a small fViT for 64x64 pictures", **{k: v for k, v in _S.items() if k != "coordinate_max"}
)
class FViT(nn.Module):
    """fViT: pictures float32 [B, 3, H, W], or tokens [B, n, 3 * patch_size^2], -> embeddings float32 [B, dim].

    n tokens take the first n + 1 rows of the position embedding, whichever landmarks they are of.

    Args:
        dim: width of a token, and of the embedding.
        depth: number of layers.
        heads: attention heads.
        head_dim: width of a head.
        mlp_dim: inner width of the MLP.
        num_patches: rows of the position embedding without that of the class token; a square number.
        patch_size: side of a patch.
        input_size: side of the picture, or (height, width).
        embedding_size: must be `dim` where it is given: the class token is the embedding, nothing is projected.
        pool: the embedding is the class token (`cls`), or the mean of all tokens (`mean`).
        dropout: rate of the dropouts in the layers.
        emb_dropout: rate of the dropout on the tokens.
        drop_path: rate of stochastic depth.
        attention_scale: factor on the attention scores; unset: dim^-0.5.
    """

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        heads: int = 11,
        head_dim: int = 64,
        mlp_dim: int = 2048,
        num_patches: int = 196,
        patch_size: int = 8,
        input_size: int | Sequence[int] = 112,
        embedding_size: int | None = None,
        pool: Literal["cls", "mean"] = "cls",
        dropout: float = 0.1,
        emb_dropout: float = 0.1,
        drop_path: float = 0.1,
        attention_scale: float | None = None,
    ) -> None:
        super().__init__()
        check_options(num_patches, pool, dim, embedding_size)
        self.input_size, self.embedding_size = as_size(input_size), dim
        self.num_patches, self.patch_size, self.pool = num_patches, patch_size, pool
        self.pos_embedding = nn.Parameter(torch.randn(1, num_patches + 1, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.make_landmark_network()
        self.patch_to_embedding = nn.Linear(3 * patch_size**2, dim)
        self.dropout = nn.Dropout(emb_dropout)
        scale = dim**-0.5 if attention_scale is None else attention_scale
        self.transformer = Transformer(dim, depth, heads, head_dim, mlp_dim, scale, dropout, drop_path)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim))

    def make_landmark_network(self) -> None:
        """What finds the landmarks; it stands here, so that names come in the official order. fViT has none."""

    def tokens(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] -> patches of a grid, row by row, [B, n, 3 p^2] with feature (row * p + column) * 3 +
        channel."""
        tokens = grid_tokens(x, self.patch_size)
        if tokens.shape[1] != self.num_patches:
            raise ConfigError(
                f"{x.shape[3]}x{x.shape[2]} pictures have {tokens.shape[1]} patches of {self.patch_size}, the network "
                f"{self.num_patches}: change input_size, patch_size or num_patches"
            )
        return tokens

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Pictures or tokens -> embeddings, not normalised; `positions` as in `embed_tokens`."""
        if x.ndim == 4:
            check_input(self, x)
            x = self.tokens(x)
        return self.embed_tokens(x, positions)

    def _places(self, rows: int, positions: Tensor | None) -> Tensor:
        if positions is None:
            return self.pos_embedding[:, :rows]
        first = torch.zeros_like(positions[:, :1])
        return self.pos_embedding[0][torch.cat([first, positions + 1], 1)]

    def embed_tokens(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Tokens [B, n, 3 p^2], n <= num_patches -> embeddings float32 [B, dim]. `positions` int64 [B, n]: rows
        0..num_patches - 1 of the position embedding for the tokens, instead of the first n."""
        if tokens.shape[1] > self.num_patches:
            raise ConfigError(f"{tokens.shape[1]} tokens for {self.num_patches} positions: change num_patches")
        x = self.patch_to_embedding(tokens)
        x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), -1, -1), x], 1)
        x = self.dropout(x + self._places(x.shape[1], positions))
        x = self.transformer(x)
        return float_tail(x[:, 0] if self.pool == "cls" else x.mean(1), self.mlp_head)


@register_backbone("part_fvit_b", "Part fViT of LAFS: 196 patches of 8 around landmarks", **_B)
@register_backbone("part_fvit_b_144", "Part fViT: 144 patches of 10", **_B, num_patches=144, patch_size=10)
@register_backbone("part_fvit_b_49", "Part fViT: 49 patches of 28", **_B, num_patches=49, patch_size=28)
@register_backbone("part_fvit_b_16", "Part fViT: 16 patches of 28", **_B, num_patches=16, patch_size=28)
@register_backbone("part_fvit_s", "a small Part fViT for 64x64 pictures", **_S, landmark_width=0.5)
@takes_options_of(FViT)
class PartFViT(FViT):
    """Part fViT: a landmark network, patches around its landmarks, and fViT over them.

    Args:
        landmark_dropout: rate of the dropout on the pooled map.
        landmark_width: factor on the channels of the landmark network.
        coordinate_max: largest coordinate; 111 in every published checkpoint.
        fp16_landmarks: let the run's autocast into the landmark network, as the official trainer does (coordinates
            near 111 are then rounded to 1/16 pixel in fp16, and to 1/2 in bf16); otherwise it runs in float32.
        options: of FViT; num_patches is the number of landmarks.
    """

    def __init__(
        self,
        *,
        landmark_dropout: float = 0.5,
        landmark_width: float = 1.0,
        coordinate_max: float = COORDINATE_MAX,
        fp16_landmarks: bool = False,
        **options: Any,
    ) -> None:
        self._landmark_options = landmark_width, landmark_dropout
        super().__init__(**options)
        self.coordinate_max, self.fp16_landmarks = coordinate_max, fp16_landmarks

    def make_landmark_network(self) -> None:
        """`stn` and `output_layer`."""
        width, dropout = self._landmark_options
        self.stn = LandmarkCNN(width)
        self.output_layer = output_layer(self.stn.channels, self.num_patches, dropout)

    def landmarks(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] -> landmarks (x, y) in pixels, [B, N, 2]; float32 unless `fp16_landmarks`."""
        if self.fp16_landmarks:
            return normalise_landmarks(self.raw_coordinates(x), self.coordinate_max)
        with no_autocast(x):
            return normalise_landmarks(
                self.raw_coordinates(x.to(self.patch_to_embedding.weight.dtype)), self.coordinate_max
            )

    def raw_coordinates(self, x: Tensor) -> Tensor:
        """Pictures -> the Linear's output [B, 2N]."""
        return self.output_layer(self.stn(x).mean((2, 3)))

    def forward(  # type: ignore[override]
        self, x: Tensor, with_landmarks: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Pictures (or tokens) -> embeddings; `with_landmarks`: and the landmarks [B, N, 2]."""
        if x.ndim == 3:
            return self.embed_tokens(x)
        check_input(self, x)
        landmarks = self.landmarks(x)
        embeddings = self.embed_tokens(sample_patches(x, landmarks, self.patch_size))
        return (embeddings, landmarks) if with_landmarks else embeddings


def grid_tokens(x: Tensor, patch_size: int) -> Tensor:
    """Pictures [B, 3, H, W] -> patches of a grid, row by row, [B, n, 3 p^2] with feature (row * p + column) * 3 +
    channel."""
    p, (batch, channels, height, width) = patch_size, x.shape
    rows, columns = height // p, width // p
    if height % p or width % p or rows * columns == 0:
        raise ConfigError(
            f"{width}x{height} pictures cannot be cut into patches of {p}: change input_size or patch_size"
        )
    grid = x.reshape(batch, channels, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
    return grid.reshape(batch, rows * columns, p * p * channels)


def check_options(num_patches: int, pool: str, dim: int, embedding_size: int | None) -> None:
    """ConfigError for numbers that no fViT can have."""
    side = math.isqrt(max(num_patches, 0))
    if num_patches < 1 or side * side != num_patches:
        raise ConfigError(
            f"num_patches={num_patches} is no square number: the patches are laid out as a square ({side**2} or "
            f"{(side + 1) ** 2})"
        )
    if pool not in ("cls", "mean"):
        raise ConfigError(f"pool is {pool!r}; it must be cls or mean")
    if embedding_size not in (None, dim):
        raise ConfigError(f"the embedding of an fViT is its token: embedding_size={embedding_size} must be dim={dim}")
