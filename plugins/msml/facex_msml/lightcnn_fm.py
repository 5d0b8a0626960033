"""The recognition branch on LightCNN-29 v2, with an operator behind each of four poolings."""

from __future__ import annotations

from collections.abc import Sequence

from facex_msml.fm import FMConfig
from facex_msml.lightcnn import LightCNN
from facex_msml.peer import PeerConfig
from facex_msml.trunk import MaskedTrunk, build_operators


class FMLightCNN(MaskedTrunk, LightCNN):  # type: ignore[misc]  # forward gives more than the embedding
    """LightCNN-29 v2 with operators: pictures in [0, 1], gray [B, 1, H, W] or RGB -> TrunkOutput.

    Args:
        fm_layers: 1 where a stage has an operator.
        fm: the kind of operator.
        peer: with a teacher's terms.
        embedding_size, input_size, width, dropout: LightCNN's.
    """

    def __init__(
        self,
        fm_layers: Sequence[int] = (1, 1, 1, 1),
        fm: FMConfig | None = None,
        peer: PeerConfig | None = None,
        embedding_size: int = 256,
        input_size: int | Sequence[int] = 128,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        LightCNN.__init__(self, embedding_size, input_size, width, dropout)
        self.fm_ops = build_operators(self.channels, fm_layers, fm or FMConfig(), peer)
        self.decoder = None
