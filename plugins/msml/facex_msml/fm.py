"""FM, the feature-masking operator: a mask learnt from a face map and a segmentation map, applied to the face map.

    t = same_conv(cat(y, o))     y: face map [B, C, H, W], o: segmentation map [B, 18, H, W]
    a = N bottleneck blocks(t)
    m = sigmoid(a) or tanh(a)    one value per channel and position
    z = y (+ - * /) m [+ y]      the bracket is the skip

Source: MSML (Yuan, Zheng, Dong, AAAI 2022), section 3.3; the four arithmetics, the skip and the peer terms are those of
the published code. Its state-dict names are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.ops import mask_aggregate, mask_aggregate_folded

SEGMENTATION_CHANNELS = 18
Activation = Literal["sigmoid", "tanh"]
Arith = Literal["add", "sub", "mul", "div"]


@dataclass(frozen=True)
class FMConfig:
    """One kind of operator for all four stages.

    Args:
        kernel_size: of the convolution that joins the two maps: 1 or 3.
        resblocks: bottleneck blocks behind it: 0, 1 or 2.
        activation: sigmoid or tanh.
        arith: how the mask meets the face map: add, sub, mul or div.
        skip: add the face map once more. Code and checkpoints from before 14 January 2022 had none (and knew only
            tanh and add); no checkpoint tells, so set it yourself.
        div_eps: with div, masks nearer to 0 than this are moved to it, sign kept; 0 divides by whatever there is.
    """

    kernel_size: int = 3
    resblocks: int = 2
    activation: Activation = "sigmoid"
    arith: Arith = "mul"
    skip: bool = True
    div_eps: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "kernel_size": (1, 3),
            "resblocks": (0, 1, 2),
            "activation": ("sigmoid", "tanh"),
            "arith": ("add", "sub", "mul", "div"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"fm.{name} must be one of {', '.join(map(str, allowed))}, not {getattr(self, name)!r}"
                )
        if not self.div_eps >= 0:
            raise ConfigError(f"fm.div_eps must not be negative, got {self.div_eps}")
        if self.div_eps and self.arith != "div":
            raise ConfigError(f"fm.div_eps is for arith div; arith is {self.arith}")


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with BatchNorm and PReLU, plus the input; the inner width is C / 2, at most 128."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2 if channels <= 128 else 128
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.prelu1 = nn.PReLU(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.prelu2 = nn.PReLU(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.prelu3 = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.prelu3(self.bn3(self.inner(x)) + x)

    def inner(self, x: Tensor) -> Tensor:
        """What the last BatchNorm reads, [B, C, H, W]."""
        out = self.prelu1(self.bn1(self.conv1(x)))
        return self.conv3(self.prelu2(self.bn2(self.conv2(out))))

    def affine(self) -> tuple[Tensor, Tensor]:
        """The last BatchNorm in evaluation mode, as scale and shift [C]."""
        mean, variance = self.bn3.running_mean, self.bn3.running_var
        assert mean is not None and variance is not None
        scale = self.bn3.weight * (variance + self.bn3.eps).rsqrt()
        return scale, self.bn3.bias - mean * scale


class FMNone(nn.Module):
    """No operator at this stage: the face map passes."""

    def forward(self, y: Tensor, o: Tensor | None = None, teacher: Tensor | None = None) -> tuple[Tensor, None]:
        """The face map itself, and no distance."""
        return y, None


class FMOperator(nn.Module):
    """The operator of one stage.

    Args:
        channels: of the face map.
        config: the kind of operator.
        segmentation_channels: of the segmentation map.
    """

    def __init__(
        self, channels: int, config: FMConfig | None = None, segmentation_channels: int = SEGMENTATION_CHANNELS
    ) -> None:
        super().__init__()
        self.config = config or FMConfig()
        size = self.config.kernel_size
        self.same_conv = nn.Conv2d(channels + segmentation_channels, channels, size, padding=size // 2, bias=False)
        self.res_block = nn.Sequential(*(Bottleneck(channels) for _ in range(self.config.resblocks)))

    def forward(self, y: Tensor, o: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """y [B, C, H, W], o [B, 18, H, W] -> z [B, C, H, W], and None: there is no distance to a teacher here.

        Without gradient, in evaluation mode, the last BatchNorm, sum and PReLU are folded into the masking."""
        if not self.training and not torch.is_grad_enabled() and len(self.res_block):
            return self._folded(y, o), None
        return self.masked(y, self.preactivation(y, o)), None

    def _folded(self, y: Tensor, o: Tensor) -> Tensor:
        last = self.res_block[-1]
        assert isinstance(last, Bottleneck)
        t = self.res_block[:-1](self._joined(y, o))
        scale, shift = last.affine()
        c, h, slope = self.config, last.inner(t), last.prelu3.weight
        return mask_aggregate_folded(
            *(y, h, t, scale, shift, slope), activation=c.activation, arith=c.arith, skip=c.skip, div_eps=c.div_eps
        )

    def preactivation(self, y: Tensor, o: Tensor) -> Tensor:
        """The mask before its activation, a [B, C, H, W]."""
        return self.res_block(self._joined(y, o))

    def _joined(self, y: Tensor, o: Tensor) -> Tensor:
        """same_conv of both maps. Where they outweigh its kernel, they are convolved apart and added, which saves joining
        them and, for an `o` without gradient, half of its backward pass; the sums round differently."""
        conv, channels = self.same_conv, y.shape[1]
        if y.shape[2] * y.shape[3] <= channels:
            return conv(torch.cat([y, o], 1))
        first, second = conv.weight[:, :channels], conv.weight[:, channels:]
        return nn.functional.conv2d(y, first, padding=conv.padding) + nn.functional.conv2d(
            o, second, padding=conv.padding
        )

    def masked(self, y: Tensor, a: Tensor, extra: Tensor | None = None) -> Tensor:
        """z = y (+ - * /) act(a) [+ extra] [+ y], computed in float32, stored as y is."""
        c = self.config
        return mask_aggregate(y, a, activation=c.activation, arith=c.arith, skip=c.skip, extra=extra, div_eps=c.div_eps)

    def explain(self, y: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
        """Mask m and purified map y (+ - * /) m, both float32 [B, C, H, W], before skip and peer terms."""
        c, a = self.config, self.preactivation(y, o)
        purified = mask_aggregate(
            y.float(), a.float(), activation=c.activation, arith=c.arith, skip=False, extra=None, div_eps=c.div_eps
        )
        return activate(a, c.activation), purified

    def extra_repr(self) -> str:
        return f"{self.config.activation}, {self.config.arith}, skip={self.config.skip}"


def activate(a: Tensor, activation: Activation) -> Tensor:
    """The mask m of a, in float32 (float64 stays)."""
    a = a if a.dtype == torch.float64 else a.float()
    return torch.sigmoid(a) if activation == "sigmoid" else torch.tanh(a)
