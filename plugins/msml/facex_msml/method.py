"""MSML (Yuan, Zheng, Dong, AAAI 2022): faces behind occluders, recognised through masks learnt from their segmentation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError, DataError
from facex.heads.margins import Margin, Softmax
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
from facex.methods.method import Nets
from facex_msml.consensus_loss import ConsensusLoss
from facex_msml.explain import explain_stages
from facex_msml.fm import FMConfig
from facex_msml.formats import msml_formats, recognise_official
from facex_msml.inference import Inference
from facex_msml.network import FRB, MSMLNet, build_teacher
from facex_msml.parts import load_parts, part_groups
from facex_msml.peer import PeerConfig
from facex_msml.pictures import overlays
from facex_msml.preparation import Preparation, complete_input

SHOWN = 8  # pictures of a step that are kept for TensorBoard
_SHARED = ("width", "blocks", "input_size")  # options that a teacher has too


class MSML(Method):
    """MSML: recognition through masks that a segmentation of the occluders feeds.

    A recognition branch (FRB), an occlusion-segmentation branch (OSB), and operators (FM) that mask each stage's map of the
    first with what the second sees. The OSB learns from the masks of the occluders alone.

    The training data need a transform that occludes and says where (`Occlude`, `MaskFaces`), or masks of their own.

    Args:
        margin: AMArcFace, AMCosFace or Softmax (plain, with bias) in the published runs; any other margin will do.
        backbone: the recognition branch: iresnet18, iresnet34, iresnet50, lightcnn.
        fm: the operators' kind (kernel_size, resblocks, activation, arith, skip, div_eps).
        fm_layers: for each of the four stages, 1 with an operator, 0 without.
        use_osb: run the segmentation branch. False, with fm_layers 0: the same backbone alone.
        parts: what is trained: all; osb, the segmentation branch alone; recognition, everything but the segmentation
            branch, which stays as it was loaded.
        segmentation_weight: factor on the segmentation loss (the published lambda1).
        statistics: local: the segmentation loss is taken over each rank's micro-batch, as published; global: over the
            micro-batches of all ranks together.
        clamp_min: floor of the probabilities in the segmentation loss; 0 as published, which is infinite where one
            underflows.
        lr_scales: factors on the learning rate by part: osb, fm_ops, frb. (`head.lr_scale` is the classifier's.)
        light: the published map of light on training pictures.
        texture: the published texture on face masks (drawn by `Occlude`, or twins of `facex_msml.twins.MaskedTwins`).
        data_masks: the training set has occlusion masks (field `occlusion`); occluders are added to them.
        warm_start: the learning rates suppose a recognition branch that was trained before; a warning says if
            `init_from` brought none.
        peer: a teacher on the clean picture (use_conv, mask_trans, use_decoder, kd_weight, decoder_weight); its weights
            come from `init_from` with network peer, the clean picture from the transform `KeepOriginal`.
        dropout: before the embedding.
        embedding_size: length of the embedding; unset: 512, for lightcnn 256.
        input: what the network reads; unset: RGB, +-1, 112 x 112, for lightcnn [0, 1], 128 x 128 (made grey inside).
        backbone_options: further options of the network (width, blocks, osb_width, activation_checkpointing).
        sample_rate: share of the classes that take part at a step (Partial FC).
        head_options: further options of MarginHead by name.
    """

    peer_loaded: Tensor  # bool, where there is a peer: whether its weights were loaded

    def __init__(
        self,
        margin: Margin,
        backbone: FRB = "iresnet18",
        fm: FMConfig | None = None,
        fm_layers: Sequence[int] = (1, 1, 1, 1),
        use_osb: bool = True,
        parts: Literal["all", "osb", "recognition"] = "all",
        segmentation_weight: float = 1.0,
        statistics: Literal["local", "global"] = "local",
        clamp_min: float = 0.0,
        lr_scales: dict[str, float] | None = None,
        light: bool = True,
        texture: bool = True,
        data_masks: bool = False,
        warm_start: bool = False,
        peer: PeerConfig | None = None,
        dropout: float = 0.0,
        embedding_size: int | None = None,
        input: InputSpec | None = None,
        backbone_options: dict[str, Any] | None = None,
        sample_rate: float = 1.0,
        head_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = dict(backbone_options or {})
        gray = backbone == "lightcnn"
        self.input = complete_input(input, gray, options)
        options.setdefault("input_size", (self.input.height, self.input.width))
        _check(parts, use_osb, lr_scales or {}, segmentation_weight)
        try:
            self.net = MSMLNet(
                *(backbone, fm_layers, fm, use_osb, parts == "recognition", peer, dropout, embedding_size), **options
            )
            self.teacher = _teacher(backbone, embedding_size, options) if peer is not None else None
        except TypeError as error:
            raise ConfigError(f"backbone_options {sorted(options)}: {error}") from error
        self.net.frb.requires_grad_(parts != "osb")
        self.parts, self.peer, self.lr_scales = parts, peer, dict(lr_scales or {})
        self.segmentation_weight = float(segmentation_weight)
        self.consensus = ConsensusLoss(clamp_min=clamp_min, statistics=statistics)
        self.preparation = Preparation(self.input, gray, light, texture)
        if self.teacher is not None:
            # in the checkpoint, so that a run that goes on or is exported knows
            self.register_buffer("peer_loaded", torch.tensor(False))
            self.teacher.register_load_state_dict_post_hook(self._note_peer)
        self.needs = frozenset({"image", "label", *(("occlusion",) if data_masks else ())})
        if parts != "osb":
            self.head = _head_spec(margin, self.net.embedding_size, sample_rate, head_options)
        self._warm_start = warm_start
        self._loaded: set[str] = set()
        self._checked = False  # at the first batch, and not again
        self._shown: tuple[Tensor, Tensor, Tensor] | None = None  # input, mask, logits of the last micro-batch

    @property
    def segments(self) -> bool:
        """Whether the segmentation branch is trained."""
        return self.net.use_osb and self.parts != "recognition"

    @property
    def _wants_original(self) -> bool:
        return self.peer is not None and bool(self.peer.kd_weight or self.peer.decoder_weight)

    def networks(self) -> dict[str, nn.Module]:
        """One network, `msml`: both branches."""
        return {"msml": self.net}

    def frozen(self) -> dict[str, Frozen]:
        """`peer`, the teacher, where there is one; the checkpoint keeps it."""
        return {} if self.teacher is None else {"peer": Frozen(self.teacher, saved=True)}

    def _note_peer(self, *_: Any) -> None:
        self.peer_loaded.fill_(True)

    def param_groups(self, network: str) -> list[Group]:
        """A group a part (osb, fm_ops, frb), with its factor on the learning rate."""
        return part_groups(self.net, self.lr_scales)

    def init_from(self, sources: Sequence[Source]) -> list[LoadReport]:
        """As every method; and `network: frb` takes a plain backbone's file for the recognition branch, `network: osb` the
        segmentation branch of any MSML file or run, `network: peer` a plain backbone's file for the teacher."""
        parts = {"frb": self.net.frb, "osb": self.net.osb, "peer": self.teacher}
        reports = load_parts(self, sources, parts)
        self._loaded |= {source.network or "msml" for source in sources}
        return reports

    def prepare(self, batch: Batch, ctx: Context) -> Batch:
        """Grey, size, light, texture and normalisation; the mask at the network's size."""
        self._check_ready(batch, ctx)
        return self.preparation(batch, ctx)

    def _check_ready(self, batch: Batch, ctx: Context) -> None:
        if self.segments and "occlusion" not in batch:
            raise DataError(
                "MSML's segmentation branch learns from occlusion masks, and the batch has none: put a transform that "
                "occludes into data.transforms (Occlude, MaskFaces), or set data_masks where the data set has masks; "
                "without the branch: use_osb false and fm_layers [0, 0, 0, 0]"
            )
        if self._wants_original and "original" not in batch:
            raise DataError("the peer sees the clean picture: put KeepOriginal before Occlude in data.transforms")
        if self._checked:
            return
        if self.peer is not None and self.peer.kd_weight and not self.peer_loaded:
            raise ConfigError("the peer has random weights: --init_from '[{path: arcface18.pth, network: peer}]'")
        if not ctx.step:  # a run that goes on has both branches from its checkpoint
            self._check_branches()
        self._checked = True

    def _check_branches(self) -> None:
        if self.parts == "recognition" and not {"osb", "msml"} & self._loaded:
            raise ConfigError(
                "parts recognition leaves the segmentation branch as it was loaded, and init_from brings none: "
                "--init_from '[{path: runs/osb, network: osb}]'"
            )
        if self._warm_start and not {"frb", "msml"} & self._loaded:
            warnings.warn(
                "warm_start: these learning rates suppose a trained recognition branch, and init_from brings none",
                stacklevel=2,
            )

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """One loss: the head's on the embedding, the segmentation loss, and the peer's distances where they weigh."""
        if self.parts == "osb":
            segmentation = ctx.nets["msml"](batch["image"], segmentation_only=True)["segmentation"]
            yield Update("msml", {"segmentation": self._segmentation(segmentation, batch, ctx)}, logs=self._iou())
            return
        out = ctx.nets["msml"](batch["image"], *self._peer_inputs(batch, ctx))
        losses = {}
        if self.segments:
            losses["segmentation"] = self._segmentation(out["segmentation"], batch, ctx)
        if self.peer is not None:
            weights = {"kd": self.peer.kd_weight, "reconstruction": self.peer.decoder_weight}
            losses |= {name: weight * ctx.mean(out[name]) for name, weight in weights.items() if weight and name in out}
        yield Update("msml", losses, out["embedding"], batch["label"], logs=self._iou())

    def _peer_inputs(self, batch: Batch, ctx: Context) -> tuple[Any, ...]:
        if self.peer is None or not self._wants_original:
            return ()
        original = batch["original"]
        stages = ctx.nets["peer"](original).stages if self.peer.kd_weight else None
        return stages, original if self.peer.decoder_weight else None

    def _segmentation(self, logits: Tensor, batch: Batch, ctx: Context) -> Tensor:
        self._shown = (batch["image"][:SHOWN], batch["occlusion"][:SHOWN], logits.detach()[:SHOWN])
        clean = batch["occlusion"] == 0
        return self.segmentation_weight * self.consensus(logits, clean, ctx.all_reduce)

    def _iou(self) -> dict[str, Tensor]:
        """Overlap of predicted and true occlusion over the pictures that are kept."""
        if self._shown is None:
            return {}
        _, occlusion, logits = self._shown
        true, found = occlusion > 127, logits[:, 0] > logits[:, 1]
        union = (true | found).sum()
        return {"occlusion_iou": torch.where(union > 0, (true & found).sum() / union.clamp(min=1), 1.0)}

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """Raw embedding; with `flip` the sum of both views', as published. maps: `occlusion`, uint8 [B, H, W] at the
        network's size, 255 where the picture as given is believed to be occluded."""
        net = nets["msml"]
        out = net(images)
        vector = out["embedding"].float()
        if flip:
            vector = vector + net(images.flip(3))["embedding"].float()
        maps = {}
        if "segmentation" in out:
            maps["occlusion"] = (out["segmentation"][:, 0] > out["segmentation"][:, 1]).to(torch.uint8) * 255
        return Embedding(vector, maps=maps)

    def explain(self, images: Tensor, nets: Nets) -> dict[str, Tensor]:
        """The map `occlusion` of `embed`, and what the operators do (`explain_stages`); for `facex eval --vis`."""
        return {**self.embed(images, nets).maps, **explain_stages(self.net, images)}

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Input, true mask and predicted mask of the first pictures of the last micro-batch."""
        if self._shown is None:
            return Visuals()
        images, occlusion, logits = self._shown
        return Visuals({"occlusion": overlays(images.float(), occlusion, logits.float(), self.input)})

    def inference_module(self, **mode: Any) -> nn.Module:
        """Normalised pictures [B, 3, H, W] -> raw embeddings [B, D]; with `masks=True` also the probability of occlusion
        [B, H, W]."""
        masks = mode.pop("masks", False)
        if mode or (masks and not self.net.use_osb):
            raise ConfigError(f"MSML has the inference option masks (with a segmentation branch), not {sorted(mode)}")
        return Inference(self.net, bool(masks))

    def formats(self) -> list[Format]:
        """The official `backbone.pth`; plain backbones for the recognition branch and the peer."""
        return msml_formats(self.net, None if self.teacher is None else bool(self.peer_loaded))

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """An official `backbone.pth`, by its names and shapes."""
        return recognise_official(state)


def _check(parts: str, use_osb: bool, lr_scales: Mapping[str, float], weight: float) -> None:
    if parts not in ("all", "osb", "recognition"):
        raise ConfigError(f"parts is all, osb or recognition, not {parts!r}")
    if parts != "all" and not use_osb:
        raise ConfigError(f"parts {parts} is about the segmentation branch: set use_osb to true, or parts to all")
    if "classification" in lr_scales:
        raise ConfigError("the classifier's factor on the learning rate is head.lr_scale, not lr_scales.classification")
    for part, scale in lr_scales.items():
        if part not in ("osb", "fm_ops", "frb"):
            raise ConfigError(f"lr_scales has osb, fm_ops and frb, not {part!r}")
        if not scale >= 0:
            raise ConfigError(f"lr_scales.{part} must not be negative, got {scale}")
    if not weight >= 0:
        raise ConfigError(f"segmentation_weight must not be negative, got {weight}")


def _head_spec(margin: Margin, embedding_size: int, sample_rate: float, options: dict[str, Any] | None) -> HeadSpec:
    """The classifier; under Softmax a plain one with a bias."""
    plain = isinstance(margin, Softmax)
    return HeadSpec(
        margin=margin,
        embedding_size=embedding_size,
        network="msml",
        init="xavier",
        sample_rate=sample_rate,
        bias=plain,
        normalize=not plain,
        options=dict(options or {}),
    )


def _teacher(backbone: FRB, embedding_size: int | None, options: Mapping[str, Any]) -> nn.Module:
    return build_teacher(backbone, embedding_size, **{k: v for k, v in options.items() if k in _SHARED})
