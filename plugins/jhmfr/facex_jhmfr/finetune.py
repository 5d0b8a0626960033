"""JHMFR's second stage: FaceT (or an IResNet) under a margin, on holistic and masked faces (TIFS 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from facex.classification import Recogniser
from facex.errors import ConfigError
from facex.methods import Batch, Context, Embedding, Format, Group, InputSpec, LoadReport, Schedule, Source, Update
from facex.methods.method import Nets
from facex.models.iresnet import IResNet
from facex_jhmfr.facet import FaceT
from facex_jhmfr.formats import encoder_format, network_format, recognise_facet
from facex_jhmfr.groups import DECAY_SCHEDULE, decay_groups, layer_scales
from facex_jhmfr.handover import start_from
from facex_jhmfr.margins import (
    BiasCorrection,
    ForeignLabel,
    MarginName,
    make_margin,
    published_options,
    warn_of_foreign_labels,
)

FlagSource = Literal["batch", "companion", "holistic"]
InferenceFlag = Literal["given", "holistic", "masked", "both"]


class JHMFR(Recogniser):
    """FaceT under ArcFace, CurricularFace or MagFace through Partial FC, with one set of prompts for each condition.

    Every picture has a flag, 0 holistic or 1 masked (field `flag`), which chooses its prompts; an IResNet ignores it.

    Args:
        margin: the head, with JHMFR's constants.
        backbone: facet_base, facet_small, facet_tiny, or any registered backbone (r100 is JHMFR's baseline).
        embedding_size: length of the embedding.
        backbone_options: further arguments of the backbone (depth, prompt_layers, drop_path_rate, residual, ...).
        input: what the network reads; JHMFR's is RGB, +-1.
        margin_options: constants of the margin that differ from JHMFR's.
        sample_rate: share of the classes that take part at a step (Partial FC).
        layer_decay: factor on the rate from each layer to the one below it; 1: one rate. FaceT only.
        filter_decay: no weight decay on biases, norms and learned positions; False: on everything.
        weight_decay_range: weight decay at the start and at the end of the run, along a cosine, instead of the
            optimizer's; of the class centres too, unless head.weight_decay is set.
        freeze_degenerate: leave out of training the biases whose gradient is analytically zero.
        flags: where a training picture's flag comes from. batch: the field that the data set (`MaskedCopies`) or a
            transform made; companion: the data set's companion field `flag`; holistic: every picture is holistic.
        inference_flag: given: the flag given with the pictures, holistic where there is none; holistic or masked: this
            one for all; both: one embedding under each flag, side by side, so that cosines are the mean over the flags.
        foreign_label: official: MagFace and CurricularFace treat rows of other ranks as the published code does (a
            margin on the last class that takes part); ignore: any number of ranks gives what one gives.
        official_regulariser: MagFace's regulariser counts once per rank in the gradient, as in the published code.
        bias_correction: AdamW of the class centres; first: every step is corrected as if it were the first (published).
        head_options: further options of MarginHead by name.
    """

    def __init__(
        self,
        margin: MarginName = "arcface",
        backbone: str = "facet_base",
        embedding_size: int = 512,
        backbone_options: dict[str, Any] | None = None,
        input: InputSpec | None = None,
        margin_options: dict[str, Any] | None = None,
        sample_rate: float = 0.1,
        layer_decay: float = 1.0,
        filter_decay: bool = True,
        weight_decay_range: tuple[float, float] | None = None,
        freeze_degenerate: bool = False,
        flags: FlagSource = "batch",
        inference_flag: InferenceFlag = "given",
        foreign_label: ForeignLabel = "ignore",
        official_regulariser: bool = False,
        bias_correction: BiasCorrection = "step",
        head_options: dict[str, Any] | None = None,
    ) -> None:
        published = published_options(margin, foreign_label, official_regulariser, bias_correction)
        super().__init__(
            make_margin(margin, dict(margin_options or {}), foreign_label),
            backbone,
            embedding_size,
            backbone_options,
            input,
            sample_rate=sample_rate,
            head_options={**published, **(head_options or {})},
        )
        if weight_decay_range is not None and self.head is not None:
            self.head.weight_decay_schedule = DECAY_SCHEDULE
        self.layer_decay, self.filter_decay, self.weight_decay_range = layer_decay, filter_decay, weight_decay_range
        self.flags, self.inference_flag, self.margin_name = flags, inference_flag, margin
        self.facet: bool = isinstance(self.backbone, FaceT)
        if flags == "companion" and self.facet:
            self.needs = frozenset({"image", "label", "flag"})
        if layer_decay != 1 and not self.facet:
            raise ConfigError(
                f"layer_decay {layer_decay}: {type(self.backbone).__name__} has no layers to decay over; set 1"
            )
        if freeze_degenerate:
            for parameter in degenerate_parameters(self.backbone):
                parameter.requires_grad_(False)
        self._warned = False

    def param_groups(self, network: str) -> list[Group]:
        """A group for each layer's rate and for what decays or not; 28 for FaceT-B with a layer decay."""
        parameters = [(n, p) for n, p in self.backbone.named_parameters() if p.requires_grad]
        if not self.filter_decay:
            return [Group([p for _, p in parameters])]
        scales = None
        if isinstance(self.backbone, FaceT) and self.layer_decay != 1:
            scales = layer_scales(self.layer_decay, self.backbone.depth)
        skip = {"pos_embed"} if self.facet else set()
        return decay_groups(parameters, skip, scales, self.weight_decay_range is not None)

    def schedules(self) -> dict[str, Schedule]:
        """The weight decay, where it has a range."""
        if self.weight_decay_range is None:
            return {}
        return {DECAY_SCHEDULE: Schedule.cosine(*self.weight_decay_range)}

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """Embed under each picture's flag, and leave the loss to the head."""
        self._warn(ctx)
        inputs: tuple[Tensor | None, ...] = ()
        if isinstance(self.backbone, FaceT):
            branches = self.backbone.branches
            # draws by a picture's place in the global batch: stochastic depth is the same on any number of ranks
            draws = ctx.uniform("drop_path", branches).T.contiguous() if branches else None
            inputs = (self.training_flags(batch), draws)
        embeddings = ctx.nets["backbone"](batch["image"], *inputs)
        self._lengths = embeddings.detach().norm(dim=1)
        yield Update("backbone", embeddings=embeddings, labels=batch["label"])

    def training_flags(self, batch: Batch) -> Tensor | None:
        """The flags [B] as the data bring them, None where every picture is holistic; ConfigError where they bring none."""
        if self.flags == "holistic" or not isinstance(self.backbone, FaceT) or self.backbone.prompts is None:
            return None
        if "flag" not in batch:
            raise ConfigError(
                "FaceT has prompts for masked faces, but the data bring no field `flag`: use data.dataset "
                "MaskedCopies, a transform that puts on masks, method.flags companion for a set with flags.npy, or "
                "method.flags holistic"
            )
        return batch["flag"]

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """Raw embedding under `side["flag"]` [B] (see `inference_flag`); with `flip` the sum of both views'. Quality:
        the mean length over the views. With "both", unit vectors under each flag side by side, [B, 2 D]."""
        if not self.facet:
            return super().embed(images, nets, None, flip)
        if self.inference_flag == "both":
            parts = [self._view(images, nets, self._constant(images, value), flip) for value in (0, 1)]
            vectors = [nn.functional.normalize(part.vector) for part in parts]
            qualities = [part.quality for part in parts if part.quality is not None]
            return Embedding(torch.cat(vectors, 1), torch.stack(qualities).mean(0))
        if self.inference_flag == "given":
            flags = side["flag"].to(images.device) if side and "flag" in side else None
        else:
            flags = self._constant(images, int(self.inference_flag == "masked"))
        return self._view(images, nets, flags, flip)

    @staticmethod
    def _constant(images: Tensor, value: int) -> Tensor:
        return torch.full((len(images),), value, dtype=torch.int64, device=images.device)

    @staticmethod
    def _view(images: Tensor, nets: Nets, flags: Tensor | None, flip: bool) -> Embedding:
        vector = nets["backbone"](images, flags).float()
        quality = vector.norm(dim=1)
        if flip:
            mirrored = nets["backbone"](images.flip(3), flags).float()
            vector, quality = vector + mirrored, (quality + mirrored.norm(dim=1)) / 2
        return Embedding(vector, quality)

    def inference_module(self, **mode: Any) -> nn.Module:
        """Normalised pictures [B, 3, H, W] and flags [B] -> raw embeddings [B, D]; `flag`: this one, baked in."""
        flag = mode.pop("flag", None)
        if mode:
            raise ConfigError(f"JHMFR has no inference options {sorted(mode)}; there is flag")
        return self.backbone if flag is None or not self.facet else OneFlag(self.backbone, int(flag))

    def init_from(self, sources: Sequence[Source]) -> list[LoadReport]:
        """A fine-tuned network, or the encoder of a masked autoencoder, from an official file or a facex run."""
        return [start_from(self, "backbone", source) for source in sources]

    def formats(self) -> list[Format]:
        """JHMFR's file of a fine-tuned network, and its MAE file to start from; then the layouts of insightface."""
        keys = list(self.backbone.state_dict())
        own = network_format("jhmfr", "backbone", keys, "JHMFR's checkpoint of a fine-tuned network")
        return [own, encoder_format("backbone")] if self.facet else [own, *super().formats()]

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """A fine-tuned FaceT. An IResNet's file looks like insightface's: ask for the method JHMFR by name."""
        return recognise_facet(state)

    def _warn(self, ctx: Context) -> None:
        assert self.head is not None
        if (
            not self._warned
            and ctx.world_size > 1
            and self.head.options["foreign_label"] == "official"
            and ctx.rank == 0
        ):
            warn_of_foreign_labels(self.margin_name, ctx.world_size)
        self._warned = True


class OneFlag(nn.Module):
    """A FaceT with the flag baked in: pictures in, embeddings out."""

    def __init__(self, network: nn.Module, flag: int) -> None:
        super().__init__()
        self.network, self.flag = network, flag

    def forward(self, images: Tensor) -> Tensor:
        """float32 [B, 3, H, W] -> [B, D]."""
        return self.network(images, torch.full((len(images),), self.flag, dtype=torch.int64, device=images.device))


def degenerate_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of a FaceT or IResNet whose gradient is analytically zero."""
    if isinstance(network, FaceT):
        return list(network.degenerate().values())
    if isinstance(network, IResNet):
        assert network.fc.bias is not None
        return [network.fc.bias]
    raise ConfigError(f"freeze_degenerate knows FaceT and IResNet, not {type(network).__name__}")
