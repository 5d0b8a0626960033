"""The masked autoencoder with which JHMFR trains FaceT's encoder: a quarter of the patches in, the others' pixels out.

What differs from the MAE paper (arXiv 2111.06377) is kept as the default: raw pixels as the target, no position for the
visible tokens in the decoder, no norm at the end of encoder and decoder. State-dict names and shapes are the published
ones, tensors that nothing uses included (`encoder.class_head.*`, `decoder.patch_embed.*`): they are carried along, not
trained.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import check_input, no_autocast
from facex_jhmfr.facet import FaceT
from facex_jhmfr.patches import patchify, sincos_positions, unpatchify

DECODER_DIM, DECODER_DEPTH, DECODER_HEADS, DECODER_MLP_RATIO = 516, 8, 12, 3.0
NORM_PIX_EPS = 1e-6


class Reconstruction(NamedTuple):
    """One pass: the error per picture [B], predictions float32 [B, masked, patch * patch * 3], masked tokens int64
    [B, masked]."""

    loss: Tensor
    predictions: Tensor
    masked: Tensor


class MaskedAutoencoder(nn.Module):
    """float32 images [B, 3, H, W] -> (loss [B], predictions, masked), see `Reconstruction`.

    Args:
        encoder: a FaceT without prompts.
        decoder_dim: width of the decoder; at the encoder's width no layer stands between them.
        decoder_depth, decoder_heads, decoder_mlp_ratio: shape of the decoder.
        mask_ratio: share of the patches that is hidden.
        pos_visible: give the visible tokens their positions in the decoder too, as the MAE paper does.
        norm_pix: predict pixels normalised in each patch, as the MAE paper does.
    """

    def __init__(
        self,
        encoder: FaceT,
        decoder_dim: int = DECODER_DIM,
        decoder_depth: int = DECODER_DEPTH,
        decoder_heads: int = DECODER_HEADS,
        decoder_mlp_ratio: float = DECODER_MLP_RATIO,
        mask_ratio: float = 0.75,
        pos_visible: bool = False,
        norm_pix: bool = False,
    ) -> None:
        super().__init__()
        if encoder.prompts is not None:
            raise ConfigError("a masked autoencoder trains an encoder without prompts: set prompt_layers to 0")
        tokens, patch = encoder.grid[0] * encoder.grid[1], encoder.patch_size
        self.hidden = int(mask_ratio * tokens)
        if not 0 < self.hidden < tokens:
            raise ConfigError(
                f"mask_ratio {mask_ratio} hides {self.hidden} of {tokens} patches: at least one must be hidden and one "
                "seen"
            )
        self.patch_size, self.grid, self.input_size = patch, encoder.grid, encoder.input_size
        self.pos_visible, self.norm_pix = pos_visible, norm_pix
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_dim))
        self.encoder = encoder
        same = decoder_dim == encoder.embed_dim
        self.enc_to_dec: nn.Module = nn.Identity() if same else nn.Linear(encoder.embed_dim, decoder_dim)
        self.decoder = FaceT(
            embed_dim=decoder_dim,
            depth=decoder_depth,
            num_heads=decoder_heads,
            mlp_ratio=decoder_mlp_ratio,
            patch_size=patch,
            input_size=encoder.input_size,
            prompt_layers=0,
            residual=encoder.residual,
            positions="sincos",
            class_head=False,
        )
        self.to_pixels = nn.Linear(decoder_dim, patch * patch * 3)
        self.register_buffer("positions", sincos_positions(encoder.grid, decoder_dim), persistent=False)
        for parameter in self.carried().values():
            parameter.requires_grad_(False)

    def carried(self) -> dict[str, nn.Parameter]:
        """Parameters that official files hold and nothing trains."""
        prefixes = ("encoder.class_head.", "decoder.patch_embed.")
        return {name: p for name, p in self.named_parameters() if name.startswith(prefixes)}

    @property
    def tokens(self) -> int:
        """Patches of a picture."""
        return self.grid[0] * self.grid[1]

    def forward(
        self, images: Tensor, noise: Tensor | None = None, u: Tensor | None = None, encode: bool = False
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """`Reconstruction` as a plain tuple; with `encode` the mean of the encoder's tokens over all patches [B,
        width].

        noise float32 [B, tokens]: the patches with the smallest values are hidden; drawn if not given. u [branches, B]:
        draws of the encoder's stochastic depth.
        """
        check_input(self, images)
        with no_autocast(images):
            patches = patchify(images.float(), self.patch_size)
            tokens = self.encoder.patch_embed.to_token(patches) + self.encoder.pos_embed
        if encode:
            return self.encoder.run_blocks(tokens, None, u).float().mean(1)
        if noise is None:
            noise = torch.rand(len(images), self.tokens, device=images.device)
        order = noise.argsort(1)
        masked, visible = order[:, : self.hidden], order[:, self.hidden :]
        seen = self.enc_to_dec(self.encoder.run_blocks(_rows(tokens, visible), None, u))
        predictions = self._decode(seen, masked, visible).float()
        error = (predictions - self._target(_rows(patches, masked))).square().mean((1, 2))
        return error, predictions, masked

    def _decode(self, seen: Tensor, masked: Tensor, visible: Tensor) -> Tensor:
        places = self.positions[0]  # type: ignore[index]
        if self.pos_visible:
            seen = seen + places[visible]
        hidden = self.mask_token + places[masked]
        tokens = self.decoder.run_blocks(torch.cat([hidden.to(seen.dtype), seen], 1))
        return self.to_pixels(tokens[:, : self.hidden])

    def _target(self, patches: Tensor) -> Tensor:
        if not self.norm_pix:
            return patches
        variance, mean = torch.var_mean(patches, -1, keepdim=True)
        return (patches - mean) / (variance + NORM_PIX_EPS).sqrt()


def masked_pictures(images: Tensor, predictions: Tensor, masked: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """The pictures with the masked patches 0, and with the predictions in their places: both float32 [B, 3, H, W].

    images [B, 3, H, W] as the network reads them, predictions [B, masked, patch * patch * 3], masked int64 [B, masked].
    """
    grid = images.shape[2] // patch, images.shape[3] // patch
    patches = patchify(images, patch)
    index = masked[..., None].expand(-1, -1, patches.shape[2])
    hidden = patches.scatter(1, index, 0.0)
    filled = patches.scatter(1, index, predictions.to(patches.dtype))
    return unpatchify(hidden, patch, grid), unpatchify(filled, patch, grid)


def _rows(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens [B, n, width], index int64 [B, m] -> [B, m, width]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))
