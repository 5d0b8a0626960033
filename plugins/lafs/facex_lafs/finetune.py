"""Supervised training of Part fViT and fViT under CosFace with mixup (stages 1 and 3 of LAFS: Sun et al., CVPR
2024)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.heads.margins import CosFace
from facex.methods import (
    Batch,
    Context,
    Embedding,
    Format,
    Frozen,
    Group,
    HeadSpec,
    InputSpec,
    LoadReport,
    Method,
    Source,
    Update,
    Visuals,
)
from facex.methods.formats import prefixed_format
from facex.methods.method import Nets
from facex.models import create_backbone
from facex_lafs import checkpoints
from facex_lafs.landmark_cnn import landmark_loss
from facex_lafs.landmark_views import LandmarkNetwork
from facex_lafs.mixup import TRIES, Mixup, mix
from facex_lafs.networks import PartFViT
from facex_lafs.overlay import draw_landmarks


@dataclass(frozen=True)
class LandmarkRegulariser:
    """Keeps fine-tuned landmarks near those of the network at the start: w(epoch) * mean squared error of the
    coordinates as shares."""

    weights: tuple[tuple[int, int, float], ...] = ()
    """(first epoch, last epoch, weight), epochs from 0, both included; elsewhere 0. Empty: no regulariser (as
    published)."""

    def weight(self, epoch: int) -> float:
        """w of an epoch."""
        return next((w for first, last, w in self.weights if first <= epoch <= last), 0.0)


def cosface(scale: float = 64.0, margin: float = 0.4) -> CosFace:
    """CosFace whose margin is shared out with a soft label: s * (cos - m * y)."""
    return CosFace(scale, margin, soft=True)


@dataclass(frozen=True)
class Decay:
    """Weight decay by kind of parameter, and the layer-wise rate."""

    weights: float = 0.1
    """Of everything of two dimensions or more, the position embedding and the class token included."""
    stn: float = 0.05
    """Of the landmark CNN; its Linear counts as `weights`."""
    flat: float = 0.0
    """Of everything of one dimension."""
    layer: float | None = None
    """Factor on the learning rate from one layer to the one below; unset: one rate for all, as the published training
    ran."""


DEFAULT_MIXUP = Mixup()


class LAFS(Method):
    """CosFace on the embedding of a Part fViT (or fViT), the landmark network trained along.

    `init_from` takes a whole official file, or `network: transformer` from a self-supervised one and `network:
    landmarks` from a stage-1 file; a run of LAFSPretrain gives both.

    Args:
        backbone: part_fvit_b, fvit_b, ... (`facex info --backbones`).
        backbone_options: its further arguments.
        scale: factor s on every logit.
        margin: margin m.
        mixup: of the pictures and labels of a micro-batch.
        label_smoothing: share of the label that is spread over all classes.
        decay: weight decay and layer-wise rates.
        regulariser: of the landmarks; needs a Part fViT.
        eval_input_scale: official: x / 255 - 0.5 when it is used, as the published numbers were measured, although
            training reads x / 127.5 - 1; train: what training reads (recommended).
        input: what the network reads in training.
        sample_rate: share of the classes that take part at a step (Partial FC).
        head_options: further options of MarginHead by name.
    """

    def __init__(
        self,
        backbone: str = "part_fvit_b",
        backbone_options: dict[str, Any] | None = None,
        scale: float = 64.0,
        margin: float = 0.4,
        mixup: Mixup = DEFAULT_MIXUP,
        label_smoothing: float = 0.0,
        decay: Decay = Decay(),
        regulariser: LandmarkRegulariser = LandmarkRegulariser(),
        eval_input_scale: Literal["official", "train"] = "official",
        input: InputSpec | None = None,
        sample_rate: float = 1.0,
        head_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        mixup.check()
        self.input = input or InputSpec()
        size = (self.input.height, self.input.width)
        self.backbone = create_backbone(backbone, **{"input_size": size, **(backbone_options or {})})
        self.mixup, self.decay, self.regulariser, self.eval_input_scale = mixup, decay, regulariser, eval_input_scale
        if eval_input_scale not in ("official", "train"):
            raise ConfigError(f"eval_input_scale is {eval_input_scale!r}; it must be official or train")
        self.head = HeadSpec(
            cosface(scale, margin),
            self.backbone.embedding_size,  # type: ignore[arg-type]
            "backbone",
            init="xavier",
            sample_rate=sample_rate,
            options={"label_smoothing": label_smoothing, **(head_options or {})},
        )
        self.anchor: LandmarkNetwork | None = None
        if regulariser.weights:
            self._add_anchor()

    def _add_anchor(self) -> None:
        if not isinstance(self.backbone, PartFViT):
            raise ConfigError("a regulariser of the landmarks needs a Part fViT")
        self.anchor = LandmarkNetwork(self.backbone.num_patches, coordinate_max=self.backbone.coordinate_max)
        self.anchor.stn = copy.deepcopy(self.backbone.stn)
        self.anchor.output_layer = copy.deepcopy(self.backbone.output_layer)

    def _copy_anchor(self) -> None:
        """The anchor becomes the landmark network as it is now."""
        if self.anchor is not None:
            own = {k: v for k, v in self.backbone.state_dict().items() if k.startswith(checkpoints.LANDMARKS)}
            self.anchor.load_state_dict(own)

    # -- what there is -------------------------------------------------------------------------------------------------
    def networks(self) -> dict[str, nn.Module]:
        """One network: `backbone`."""
        return {"backbone": self.backbone}

    def frozen(self) -> dict[str, Frozen]:
        """The landmark network at the start, where landmarks are regularised."""
        return {} if self.anchor is None else {"anchor": Frozen(self.anchor, "eval", "fp32", saved=True)}

    def param_groups(self, network: str) -> list[Group]:
        """By weight decay, and with a layer-wise rate by layer."""
        groups: dict[tuple[float, float], Group] = {}
        for name, parameter in self.backbone.named_parameters():
            if parameter.requires_grad:
                decay = self._decay_of(name, parameter)
                scale = 1.0 if self.decay.layer is None else self.layer_scale(name, self.decay.layer)
                label = f"decay {decay:g}" + (f", rate x {scale:.3g}" if scale != 1 else "")
                group = groups.setdefault((decay, scale), Group([], label, lr_scale=scale, weight_decay=decay))
                group.parameters.append(parameter)
        return list(groups.values())

    def _decay_of(self, name: str, parameter: nn.Parameter) -> float:
        if len(getattr(parameter, "ds_shape", parameter.shape)) == 1:
            return self.decay.flat
        return self.decay.stn if name.startswith("stn.") else self.decay.weights

    def layer_scale(self, name: str, factor: float) -> float:
        """factor^(depth + 1 - id): id 0 for embeddings and the landmark network, i + 1 for layer i, depth + 1 for
        what follows."""
        depth = len(self.backbone.transformer.layers)  # type: ignore[union-attr,arg-type]
        parts = name.split(".")
        if name.startswith("transformer.layers."):
            layer = int(parts[2]) + 1
        else:
            layer = depth + 1 if parts[0] == "mlp_head" else 0
        return float(factor ** (depth + 1 - layer))

    # -- a step --------------------------------------------------------------------------------------------------------
    def prepare(self, batch: Batch, ctx: Context) -> Batch:
        """To network input, then mixup: labels [b, 2] with their shares in extras["shares"]."""
        batch = batch.with_fields(image=self.network_input(batch["image"], batch.color))
        if not self.mixup.active:
            return batch
        lam = self.mixup.draw(ctx.uniform("mixup", 1 + 2 * TRIES)[0])
        images, labels, shares = mix(batch["image"], batch["label"], lam)
        batch.extras["shares"] = shares
        return batch.with_fields(image=images, label=labels)

    def network_input(self, images: Tensor, color: str) -> Tensor:
        """uint8 [b, H, W, 3] -> what the network reads; at the published scale x / 255 * 2 - 1, rounded in this
        order: landmarks and their gradients amplify the last bit."""
        i = self.input
        if set((*i.mean, *i.std)) != {127.5} or images.shape[1:3] != (i.height, i.width):
            return i.to_tensor(images, color)
        x = images if color == i.color else images.flip(3)
        return (x.permute(0, 3, 1, 2).float() / 255 * 2 - 1).contiguous()

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """Embed, and leave the loss to the head; the regulariser beside it."""
        shares = batch.extras.get("shares")
        assert shares is None or isinstance(shares, Tensor)
        losses: dict[str, Tensor] = {}
        weight = self.regulariser.weight(ctx.epoch)
        if weight > 0:
            embeddings, landmarks = ctx.nets["backbone"](batch["image"], with_landmarks=True)
            losses["landmarks"] = weight * ctx.mean(self.landmark_loss(batch["image"], landmarks, ctx.nets))
        else:
            embeddings = ctx.nets["backbone"](batch["image"])
        yield Update("backbone", losses, embeddings, batch["label"], shares)

    def landmark_loss(self, images: Tensor, landmarks: Tensor, nets: Nets) -> Tensor:
        """Squared distance a picture [b] from the landmarks of the network at the start."""
        assert self.anchor is not None
        return landmark_loss(nets["anchor"](images), landmarks, self.anchor.coordinate_max)

    # -- using it ------------------------------------------------------------------------------------------------------
    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """Raw embedding at the scale of `eval_input_scale`; with `flip` the sum of both views'."""
        x = images / 2 if self.eval_input_scale == "official" else images
        vector = nets["backbone"](x).float()
        return Embedding(vector + nets["backbone"](x.flip(3)).float() if flip else vector)

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Landmarks on the first pictures of the batch."""
        if not isinstance(self.backbone, PartFViT):
            return Visuals()
        _, landmarks = ctx.nets["backbone"](batch["image"][:8], with_landmarks=True)
        pictures = (batch["image"][:8].permute(0, 2, 3, 1) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        return Visuals({"landmarks": draw_landmarks(pictures.cpu(), landmarks.float().cpu(), self.backbone.patch_size)})

    def init_from(self, sources: Sequence[Source]) -> list[LoadReport]:
        """Whole files, or their parts (facex_lafs.checkpoints)."""
        reports = checkpoints.init_finetuning(self, sources)
        self._copy_anchor()
        return reports

    def inference_module(self, **mode: Any) -> nn.Module:
        """Pictures [B, 3, H, W] in [-1, 1] -> raw embeddings."""
        if mode:
            raise ConfigError(f"LAFS has no inference options {sorted(mode)}")
        return self.backbone

    def formats(self) -> list[Format]:
        """The official state dict, and the same from inside DDP; class centres are `loss.weight`."""
        keys = list(self.backbone.state_dict())
        ddp = prefixed_format(
            *("lafs-module", "backbone", keys, "module.", "module.loss.weight"),
            describe="saved from inside DDP",
            head_required=False,
            container="",
        )
        plain = prefixed_format(
            *("lafs", "backbone", keys, "", "loss.weight"),
            describe="Part fViT or fViT",
            head_required=False,
            container="",
        )
        return [plain, ddp]

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Official Part fViT and fViT files."""
        return checkpoints.recognise_supervised(state)
