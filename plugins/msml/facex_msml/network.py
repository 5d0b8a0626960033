"""MSML's network: the recognition branch with operators (`frb`) and the segmentation branch (`osb`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import as_size
from facex_msml.fm import FMConfig
from facex_msml.iresnet_fm import FMIResNet
from facex_msml.lightcnn_fm import FMLightCNN
from facex_msml.osb import OSB
from facex_msml.peer import PeerConfig
from facex_msml.trunk import MaskedTrunk

FRB = Literal["iresnet18", "iresnet34", "iresnet50", "lightcnn"]
FRBS: tuple[str, ...] = ("iresnet18", "iresnet34", "iresnet50", "lightcnn")


class MSMLNet(nn.Module):
    """Pictures [B, 3, H, W] -> a dict of tensors (see `forward`).

    iResNet reads RGB, +-1, 112x112; LightCNN gray (or RGB, converted here) in [0, 1], 128x128. State-dict names are the
    published `backbone.pth`'s without its head.

    Args:
        frb: the recognition branch: iresnet18, iresnet34, iresnet50 or lightcnn.
        fm_layers: for each of the four stages, 1 with an operator, 0 without.
        fm: the kind of operator.
        use_osb: run the segmentation branch. It is built (and saved) in any case, as in the published code, but
            without this it is not run and not trained; then no stage may have an operator.
        freeze_osb: keep the segmentation branch as it is: no gradient, evaluation mode.
        peer: the peer extension; None: without.
        dropout: probability before the embedding (0 in every published run).
        embedding_size: length of the embedding; None: 512, for LightCNN 256.
        input_size: side of the picture, or (height, width), multiples of 16; None: 112, for LightCNN 128.
        width: multiplies the recognition branch's channels; 1 is the published network.
        blocks: residual blocks in each stage of an iResNet, instead of the published depth's.
        osb_width: multiplies the channels of the segmentation branch's encoder; 1 is the published network.
        activation_checkpointing: recompute the iResNet's blocks in the backward pass.
    """

    def __init__(
        self,
        frb: FRB = "iresnet18",
        fm_layers: Sequence[int] = (1, 1, 1, 1),
        fm: FMConfig | None = None,
        use_osb: bool = True,
        freeze_osb: bool = False,
        peer: PeerConfig | None = None,
        dropout: float = 0.0,
        embedding_size: int | None = None,
        input_size: int | Sequence[int] | None = None,
        width: float = 1.0,
        blocks: Sequence[int] | None = None,
        osb_width: float = 1.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_options(frb, fm_layers, use_osb, peer, blocks)
        self.frb_name, self.fm_layers, self.fm = frb, tuple(fm_layers), fm or FMConfig()
        self.gray = frb == "lightcnn"
        self.input_size = as_size(input_size if input_size is not None else (128 if self.gray else 112))
        self.embedding_size = embedding_size if embedding_size is not None else (256 if self.gray else 512)
        self.use_osb, self.frozen_osb, self.peer = use_osb, freeze_osb or not use_osb, peer
        self.frb = build_frb(
            *(frb, fm_layers, self.fm, peer, self.embedding_size, self.input_size, width, blocks, dropout),
            activation_checkpointing,
        )
        self.osb = OSB(self.gray, self.input_size, osb_width)
        self.osb.requires_grad_(not self.frozen_osb)

    def train(self, mode: bool = True) -> MSMLNet:
        """Training mode; a frozen segmentation branch stays in evaluation mode."""
        super().train(mode)
        if self.frozen_osb:
            self.osb.eval()
        return self

    def forward(
        self,
        x: Tensor,
        teacher: Sequence[Tensor] | None = None,
        original: Tensor | None = None,
        segmentation_only: bool = False,
    ) -> dict[str, Tensor]:
        """Pictures, as normalised for the recognition branch; the teacher's four stages (`build_teacher`); the clean
        pictures for the decoder. `segmentation_only`: the recognition branch is not run.

        Returns:
            embedding float32 [B, D], not normalised; and, where there are such,
            segmentation [B, 2, H, W]: logits, channel 0 occluded, 1 clean;
            map0 ... map3 [B, 18, H / 2, W / 2] ... [B, 18, H / 16, W / 16]: decoder maps, detached;
            kd float32 [B]: squared distances to the teacher, summed over the stages;
            reconstruction float32 [B]: squared error of the rebuilt face.
        """
        segmentation = None
        if self.use_osb:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_osb):
                segmentation = self.osb(x)
        output: dict[str, Tensor] = {}
        if segmentation is not None:
            output["segmentation"] = segmentation.final
            output |= {f"map{i}": value for i, value in enumerate(segmentation.maps)}
        if segmentation_only:
            return output
        found = self.frb(x, None if segmentation is None else segmentation.maps, teacher, original)
        output["embedding"] = found.embedding
        for name in ("kd", "reconstruction"):
            value = getattr(found, name)
            if value is not None:
                output[name] = value
        return output


def build_frb(
    frb: str,
    fm_layers: Sequence[int],
    fm: FMConfig | None = None,
    peer: PeerConfig | None = None,
    embedding_size: int = 512,
    input_size: int | Sequence[int] = 112,
    width: float = 1.0,
    blocks: Sequence[int] | None = None,
    dropout: float = 0.0,
    activation_checkpointing: bool = False,
) -> MaskedTrunk:
    """The recognition branch of that name."""
    if frb == "lightcnn":
        return FMLightCNN(fm_layers, fm, peer, embedding_size, input_size, width, dropout)
    depth = int(frb.removeprefix("iresnet"))
    return FMIResNet(
        depth, fm_layers, fm, peer, embedding_size, input_size, width, blocks, dropout, activation_checkpointing
    )


def build_teacher(
    frb: FRB = "iresnet18",
    embedding_size: int | None = None,
    input_size: int | Sequence[int] | None = None,
    width: float = 1.0,
    blocks: Sequence[int] | None = None,
) -> MaskedTrunk:
    """The peer: the same branch without operators. Its output's `stages` are what MSMLNet takes as `teacher`.

    Its state-dict names are those of a plain IResNet (or LightCNN) checkpoint.
    """
    gray = frb == "lightcnn"
    size = input_size if input_size is not None else (128 if gray else 112)
    return build_frb(
        frb,
        (0, 0, 0, 0),
        None,
        None,
        embedding_size if embedding_size is not None else (256 if gray else 512),
        size,
        width,
        blocks,
    )


def check_options(
    frb: str, fm_layers: Sequence[int], use_osb: bool, peer: PeerConfig | None, blocks: Sequence[int] | None = None
) -> None:
    """Refuse combinations that the published code accepts and fails on later.

    Raises:
        ConfigError: which options do not go together, and what to do.
    """
    if frb not in FRBS:
        raise ConfigError(f"frb must be one of {', '.join(FRBS)}, not {frb!r}")
    layers = list(fm_layers)
    if len(layers) != 4 or any(value not in (0, 1) for value in layers):
        raise ConfigError(f"fm_layers needs four values, each 0 or 1, one for each stage; got {layers}")
    if any(layers) and not use_osb:
        raise ConfigError(
            f"fm_layers {layers} needs the segmentation branch: set use_osb to true, or fm_layers to [0, 0, 0, 0]"
        )
    if peer is not None and not all(layers):
        raise ConfigError(
            f"the peer extension compares all four stages, but fm_layers is {layers}: set it to [1, 1, 1, 1], or leave peer out"
        )
    if peer is not None and peer.use_decoder and frb == "lightcnn":
        raise ConfigError("peer.use_decoder needs an iResNet: the decoder rebuilds RGB pictures from its last map")
    if blocks is not None and frb == "lightcnn":
        raise ConfigError("blocks is for iResNets; LightCNN-29 v2 has a fixed depth")
    if blocks is not None and (len(blocks) != 4 or any(count < 1 for count in blocks)):
        raise ConfigError(f"blocks needs four positive numbers, one for each stage; got {list(blocks)}")
