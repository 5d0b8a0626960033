"""The peer extension: a teacher that sees the clean face pulls the masked maps of the network that sees the occluded one.

    mbar = conv_m(m) or 1 - m       m: the operator's mask, y: its face map, T: the teacher's map of the same stage
    f = conv1(mbar * y)             added to the operator's output
    f' = conv2(mbar * T)            while a teacher is there
    distance = mean (f' - f)^2      of each picture; summed over the stages and weighted, it is the distillation loss

The published code adds the distances to every logit, where a softmax cannot see them, so nothing learns from them; here
they are a loss of their own (`kd_weight`), and the teacher is a frozen network outside the trained one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.ops.mask_aggregate_reference import combine
from facex_msml.fm import FMConfig, FMOperator, activate


@dataclass(frozen=True)
class PeerConfig:
    """What of the peer extension is built, and the weights of its losses.

    Args:
        use_conv: two 3x3 convolutions with BatchNorm and PReLU on either side of the distance; False: none.
        mask_trans: how the mask becomes the weight of the maps: conv (learnt) or invert (1 - m).
        use_decoder: rebuild the clean face from the last map (iResNet only).
        kd_weight: weight of the distances; 0 is what the published code amounts to.
        decoder_weight: weight of the mean squared error of the rebuilt face; 0 is what the published code amounts to.
    """

    use_conv: bool = True
    mask_trans: Literal["conv", "invert"] = "conv"
    use_decoder: bool = False
    kd_weight: float = 1.0
    decoder_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.mask_trans not in ("conv", "invert"):
            raise ConfigError(f"peer.mask_trans must be conv or invert, not {self.mask_trans!r}")
        for name in ("kd_weight", "decoder_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"peer.{name} must not be negative, got {getattr(self, name)}")
        if self.decoder_weight and not self.use_decoder:
            raise ConfigError(f"peer.decoder_weight is {self.decoder_weight}, but peer.use_decoder is off")


class PeerFMOperator(FMOperator):
    """The operator with the teacher's terms: z = y (+ - * /) m + f + y.

    Args:
        channels: of the face map.
        config: the kind of operator.
        peer: which terms.
    """

    def __init__(self, channels: int, config: FMConfig | None = None, peer: PeerConfig | None = None) -> None:
        super().__init__(channels, config)
        peer = peer or PeerConfig()
        self.conv1: nn.Module = _two_convs(channels) if peer.use_conv else nn.Identity()
        self.conv2: nn.Module = _two_convs(channels) if peer.use_conv else nn.Identity()
        self.conv_m: nn.Module | None = None
        if peer.mask_trans == "conv":
            self.conv_m = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, y: Tensor, o: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """y, teacher [B, C, H, W], o [B, 18, H, W] -> z [B, C, H, W], and the mean squared distance of each picture
        float32 [B] (None without a teacher's map). The mask, its weight and their products are float32, z is of y's type."""
        c, mask = self.config, activate(self.preactivation(y, o), self.config.activation)
        wide = y.to(mask.dtype)
        weight = self._weight(mask)
        own = self.conv1(weight * wide)
        z = combine(wide, mask, c.arith, c.div_eps) + own
        z = (z + wide if c.skip else z).to(y.dtype)
        if teacher is None:
            return z, None
        theirs = self.conv2(weight * teacher)
        return z, (theirs.float() - own.float()).square().flatten(1).mean(1)

    def _weight(self, mask: Tensor) -> Tensor:
        """mbar, in the mask's precision even under autocast."""
        if self.conv_m is None:
            return 1 - mask
        with torch.autocast(mask.device.type, enabled=False):
            return self.conv_m(mask)


def _two_convs(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.PReLU(channels)]
    return nn.Sequential(*layers)
