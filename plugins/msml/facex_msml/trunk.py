"""What the recognition branches share: an operator behind each of four stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from facex_msml.decoder import Decoder
from facex_msml.fm import FMConfig, FMNone, FMOperator
from facex_msml.peer import PeerConfig, PeerFMOperator


class TrunkOutput(NamedTuple):
    """embedding float32 [B, D]; the four maps that the stages hand on; distances to the teacher and of the rebuilt face,
    float32 [B], where they were asked for."""

    embedding: Tensor
    stages: tuple[Tensor, ...]
    kd: Tensor | None = None
    reconstruction: Tensor | None = None


def build_operators(
    channels: Sequence[int], layers: Sequence[int], config: FMConfig, peer: PeerConfig | None
) -> nn.ModuleList:
    """An operator a stage; FMNone where `layers` says 0."""
    operators: list[nn.Module] = []
    for count, enabled in zip(channels, layers, strict=True):
        if not enabled:
            operators.append(FMNone())
        elif peer is None:
            operators.append(FMOperator(count, config))
        else:
            operators.append(PeerFMOperator(count, config, peer))
    return nn.ModuleList(operators)


class MaskedTrunk(nn.Module):
    """A recognition network with operators; mixed into one that has `stem`, `stage`, `final_map` and `embedding`.

    Without operators (`fm_layers` 0, 0, 0, 0) it is the plain network, and serves as the teacher.
    """

    fm_ops: nn.ModuleList
    decoder: Decoder | None

    def forward(
        self,
        x: Tensor,
        maps: Sequence[Tensor] | None = None,
        teacher: Sequence[Tensor] | None = None,
        original: Tensor | None = None,
    ) -> TrunkOutput:
        """Pictures [B, 3 or 1, H, W], segmentation maps (largest first), the teacher's stages, clean pictures."""
        x = self.stem(x)  # type: ignore[operator]
        stages, distances = [], []
        for number, operator in enumerate(self.fm_ops):
            y = self.stage(number, x)  # type: ignore[operator]
            own = None if maps is None else maps[number]
            x, distance = operator(y, own, None if teacher is None else teacher[number].detach())
            stages.append(x)
            if distance is not None:
                distances.append(distance)
        last = self.final_map(x)  # type: ignore[operator]
        rebuilt = None
        if self.decoder is not None and original is not None:
            rebuilt = self.decoder.distance(last, original)[1]
        kd = sum(distances[1:], distances[0]) if distances else None
        return TrunkOutput(self.embedding(last), tuple(stages), kd, rebuilt)  # type: ignore[operator]
