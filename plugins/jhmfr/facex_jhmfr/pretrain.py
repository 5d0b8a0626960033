"""JHMFR's first stage: FaceT's encoder as a masked autoencoder, without labels and without a head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from facex.classification import build_backbone
from facex.errors import ConfigError
from facex.methods import Batch, Context, Embedding, Format, Group, InputSpec, Method, Schedule, Update, Visuals
from facex.methods.method import Nets
from facex.models import get_backbone
from facex_jhmfr import mae
from facex_jhmfr.facet import FaceT
from facex_jhmfr.formats import network_format, recognise_autoencoder
from facex_jhmfr.groups import DECAY_SCHEDULE, decay_groups
from facex_jhmfr.reconstructions import to_pictures

SHOWN = 10  # pictures of a reconstruction


class JHMFRPretrain(Method):
    """Hide most patches of a face, and learn to draw them.

    Args:
        backbone: facet_base, facet_small or facet_tiny.
        embedding_size: outputs of the class head, which is carried along for the fine-tuning and not trained here.
        backbone_options: further arguments of FaceT (depth, residual, drop_path_rate, ...); it has no prompts here.
        input: what the network reads; JHMFR's is RGB, +-1.
        mask_ratio: share of the patches that is hidden.
        decoder_dim, decoder_depth, decoder_heads, decoder_mlp_ratio: shape of the decoder.
        pos_visible: the decoder knows the places of visible patches too (the MAE paper; JHMFR's does not).
        norm_pix: the target is normalised in each patch (the MAE paper; JHMFR's is raw pixels).
        skip_decay: no weight decay on learned positions and the mask token (JHMFR decays them).
        filter_decay: no weight decay on biases and norms; False: on everything.
        weight_decay_range: weight decay at the start and at the end of the run, along a cosine, instead of the
            optimizer's.
    """

    needs = frozenset({"image"})

    def __init__(
        self,
        backbone: str = "facet_base",
        embedding_size: int = 512,
        backbone_options: dict[str, Any] | None = None,
        input: InputSpec | None = None,
        mask_ratio: float = 0.75,
        decoder_dim: int = mae.DECODER_DIM,
        decoder_depth: int = mae.DECODER_DEPTH,
        decoder_heads: int = mae.DECODER_HEADS,
        decoder_mlp_ratio: float = mae.DECODER_MLP_RATIO,
        pos_visible: bool = False,
        norm_pix: bool = False,
        skip_decay: bool = False,
        filter_decay: bool = True,
        weight_decay_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.input = input or InputSpec()
        if get_backbone(backbone).build is not FaceT:
            raise ConfigError(f"JHMFRPretrain trains a FaceT (facet_base, facet_small, facet_tiny), not {backbone}")
        options = {"prompt_layers": 0, **(backbone_options or {})}
        encoder = build_backbone(backbone, embedding_size, self.input, options)
        assert isinstance(encoder, FaceT)
        decoder = (decoder_dim, decoder_depth, decoder_heads, decoder_mlp_ratio)
        self.mae = mae.MaskedAutoencoder(encoder, *decoder, mask_ratio, pos_visible, norm_pix)
        self.skip_decay, self.filter_decay, self.weight_decay_range = skip_decay, filter_decay, weight_decay_range

    def networks(self) -> dict[str, nn.Module]:
        """One network: `mae`, encoder and decoder."""
        return {"mae": self.mae}

    def param_groups(self, network: str) -> list[Group]:
        """What decays and what does not. Tensors that official files carry untrained stand in the groups of their kind,
        as in the published code; the optimizer never sees them."""
        carried = self.mae.carried()
        parameters = [(n, p) for n, p in self.mae.named_parameters() if p.requires_grad or n in carried]
        if not self.filter_decay:
            return [Group([p for _, p in parameters])]
        skip = {"encoder.pos_embed", "mask_token"} if self.skip_decay else set()
        return decay_groups(parameters, skip, scheduled=self.weight_decay_range is not None)

    def schedules(self) -> dict[str, Schedule]:
        """The weight decay, where it has a range."""
        if self.weight_decay_range is None:
            return {}
        return {DECAY_SCHEDULE: Schedule.cosine(*self.weight_decay_range)}

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """Mean squared error to the hidden patches."""
        loss, _, _ = ctx.nets["mae"](batch["image"], *self._draws(ctx))
        yield Update("mae", {"mse": ctx.mean(loss)})

    def _draws(self, ctx: Context) -> tuple[Tensor, Tensor | None]:
        """Noise [b, tokens] of the masks, and draws [branches, b] of stochastic depth."""
        branches = self.mae.encoder.branches
        drop_path = ctx.uniform("drop_path", branches).T.contiguous() if branches else None
        return ctx.uniform("mask", self.mae.tokens), drop_path

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """The mean of the encoder's tokens over all patches [B, width]; with `flip` the sum of both views'."""
        vector = nets["mae"](images, encode=True)
        return Embedding(vector + nets["mae"](images.flip(3), encode=True) if flip else vector)

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """A few pictures with their hidden patches, with the predictions in their places, and whole."""
        if self.mae.norm_pix:
            return Visuals()  # normalised pixels have lost their patches' colours
        images, (noise, u) = batch["image"][:SHOWN], self._draws(ctx)
        draws = (noise[:SHOWN], None if u is None else u[:, :SHOWN])
        _, predictions, masked = ctx.nets["mae"](images, *draws)
        hidden, filled = mae.masked_pictures(images, predictions, masked, self.mae.patch_size)
        shown = {"masked": hidden, "reconstructed": filled, "original": images}
        return Visuals(images={name: to_pictures(x, self.input) for name, x in shown.items()})

    def formats(self) -> list[Format]:
        """JHMFR's MAE file."""
        return [network_format("jhmfr-mae", "mae", list(self.mae.state_dict()), "JHMFR's MAE checkpoint")]

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """A masked autoencoder's file."""
        return recognise_autoencoder(state)
