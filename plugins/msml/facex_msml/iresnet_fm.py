"""The recognition branch on IResNet: the published network with an operator behind each stage; and the plain ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import check_input, float_tail, initialise_convs, run_stage
from facex.models.iresnet import IResNet
from facex.models.registry import register_backbone
from facex_msml.decoder import Decoder
from facex_msml.fm import FMConfig
from facex_msml.peer import PeerConfig
from facex_msml.trunk import MaskedTrunk, build_operators

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    28: (3, 4, 3, 3),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    152: (3, 21, 48, 3),
    200: (6, 26, 60, 6),
}


def plain_iresnet(
    depth: int = 18,
    embedding_size: int = 512,
    input_size: int | Sequence[int] = 112,
    width: float = 1.0,
    dropout: float = 0.0,
    activation_checkpointing: bool = False,
) -> IResNet:
    """The recognition branch without operators: facex's IResNet in insightface's form, of a published depth."""
    return IResNet(
        form="insightface",
        blocks=blocks_of(depth),
        embedding_size=embedding_size,
        input_size=input_size,
        width=width,
        dropout=dropout,
        activation_checkpointing=activation_checkpointing,
    )


for _depth in BLOCKS:
    register_backbone(f"iresnet{_depth}_v", f"IResNet-{_depth}, MSML's baseline", depth=_depth)(plain_iresnet)


def blocks_of(depth: int) -> tuple[int, int, int, int]:
    """Residual blocks in the four stages."""
    if depth not in BLOCKS:
        raise ConfigError(f"there is no iresnet{depth}; known depths: {', '.join(map(str, BLOCKS))}")
    return BLOCKS[depth]


class FMIResNet(MaskedTrunk, IResNet):  # type: ignore[misc]  # forward gives more than the embedding
    """IResNet with operators: RGB [B, 3, H, W], +-1 -> TrunkOutput.

    Args:
        depth: 18, 34 or 50 are published with operators.
        fm_layers: 1 where a stage has an operator.
        fm: the kind of operator.
        peer: with a teacher's terms.
        embedding_size, input_size, width, dropout, activation_checkpointing: facex.models.iresnet.IResNet's.
        blocks: residual blocks in each stage, instead of `depth`'s.
    """

    def __init__(
        self,
        depth: int = 18,
        fm_layers: Sequence[int] = (1, 1, 1, 1),
        fm: FMConfig | None = None,
        peer: PeerConfig | None = None,
        embedding_size: int = 512,
        input_size: int | Sequence[int] = 112,
        width: float = 1.0,
        blocks: Sequence[int] | None = None,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        IResNet.__init__(
            self,
            form="insightface",
            embedding_size=embedding_size,
            input_size=input_size,
            width=width,
            blocks=tuple(blocks) if blocks is not None else blocks_of(depth),
            dropout=dropout,
            activation_checkpointing=activation_checkpointing,
        )
        self.channels = tuple(self.get_submodule(f"layer{i}")[0].conv2.out_channels for i in range(1, 5))  # type: ignore
        self.fm_ops = build_operators(self.channels, fm_layers, fm or FMConfig(), peer)
        self.decoder = Decoder(self.channels[3]) if peer is not None and peer.use_decoder else None
        initialise_convs(self.fm_ops, "normal")
        if self.decoder is not None:
            initialise_convs(self.decoder, "normal")

    def stem(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, C, H, W]."""
        check_input(self, x)
        return self.prelu(self.bn1(self.conv1(x)))

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Stage 0 to 3: half the height and width."""
        layer: nn.Module = self.get_submodule(f"layer{number + 1}")
        return run_stage(layer, x, self.activation_checkpointing and self.training)

    def final_map(self, x: Tensor) -> Tensor:
        """The last BatchNorm: what the embedding and the decoder read."""
        return self.bn2(x)

    def embedding(self, x: Tensor) -> Tensor:
        """The last map -> embeddings float32 [B, D]."""
        return float_tail(self.dropout(torch.flatten(x, 1)), self.fc, self.features)
