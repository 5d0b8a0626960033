"""MobileFaceNet in insightface's small and large form.

Source: insightface `arcface_torch/backbones/mobilefacenet.py` (7fadd420); state-dict names and shapes are its own.

    layers.0         3x3 convolution, halves the picture
    layers.1         one 3x3 convolution in 64 groups (small), or depthwise residual blocks (large)
    layers.2,4,6     depthwise block, halves the map
    layers.3,5,7     depthwise residual blocks
    conv_sep         1x1 to 512 channels; from here on float32 whatever the autocast says, as published
    features         one weight per position of the map (GDC), Linear, BatchNorm1d
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import (
    as_size,
    check_input,
    float_tail,
    initialise_convs,
    initialise_linears,
    map_size,
    run_stage,
    scaled,
)
from facex.models.registry import register_backbone


class ConvBlock(nn.Module):
    """Convolution, BatchNorm and (unless it is linear) PReLU, under the official name `layers`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.layers = nn.Sequential(*modules, *([] if linear else [nn.PReLU(outputs)]))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        return self.layers(x)


class DepthWise(nn.Module):
    """1x1 to `inner` channels, 3x3 depthwise (with the stride), 1x1 without activation; residual if asked."""

    def __init__(self, inputs: int, outputs: int, inner: int, stride: int, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            ConvBlock(inputs, inner),
            ConvBlock(inner, inner, 3, stride, 1, groups=inner),
            ConvBlock(inner, outputs, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        return x + self.layers(x) if self.residual else self.layers(x)


class Residual(nn.Module):
    """Depthwise residual blocks at one size."""

    def __init__(self, channels: int, count: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(DepthWise(channels, channels, inner, 1, residual=True) for _ in range(count)))

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        """[B, channels, H, W] -> the same shape; `recompute`: checkpoint every block."""
        return run_stage(self.layers, x, recompute)


class GDC(nn.Module):
    """Global depthwise convolution: one weight per channel and position, then Linear and BatchNorm1d."""

    def __init__(self, channels: int, kernel: tuple[int, int], embedding_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(channels, channels, kernel, groups=channels, linear=True),
            nn.Flatten(),
            nn.Linear(channels, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] of the kernel's size -> [B, embedding_size]."""
        return self.layers(x)


@register_backbone("mbf", "MobileFaceNet, insightface's small form", blocks=(1, 4, 6, 2), scale=2)
@register_backbone("mbf_large", "MobileFaceNet, insightface's large form", blocks=(2, 8, 12, 4), scale=4)
class MobileFaceNet(nn.Module):
    """MobileFaceNet: float32 images [B, 3, H, W] -> embeddings float32 [B, embedding_size].

    Args:
        blocks: residual blocks at 56, 28, 14 and 7 pixels (for 112). 1 in the first place is the single grouped
            convolution of the small form.
        scale: multiplies the outer channels 64 and 128 (small 2, large 4); the inner ones stay 128, 256, 512.
        embedding_size: length of the embedding.
        input_size: side of the picture, or (height, width); 112 in every published checkpoint.
        width: multiplies all channels (rounded to multiples of 8); 1 is the published network.
        activation_checkpointing: recompute the residual blocks in the backward pass.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (1, 4, 6, 2),
        scale: int = 2,
        embedding_size: int = 512,
        input_size: int | Sequence[int] = 112,
        width: float = 1.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(blocks) != 4 or min(blocks) < 1:
            raise ConfigError(f"MobileFaceNet has four stages of at least one block, not {tuple(blocks)}")
        self.embedding_size = embedding_size
        self.input_size = as_size(input_size)
        self.activation_checkpointing = activation_checkpointing
        unit, i128, i256, i512 = (scaled(c, width) for c in (64, 128, 256, 512))
        narrow, wide = unit * scale, 2 * unit * scale
        first: nn.Module = ConvBlock(narrow, narrow, 3, 1, 1, groups=unit)
        if blocks[0] != 1:
            first = Residual(narrow, blocks[0], i128)
        self.layers = nn.ModuleList(
            [
                ConvBlock(3, narrow, 3, 2, 1),
                first,
                DepthWise(narrow, narrow, i128, 2),
                Residual(narrow, blocks[1], i128),
                DepthWise(narrow, wide, i256, 2),
                Residual(wide, blocks[2], i256),
                DepthWise(wide, wide, i512, 2),
                Residual(wide, blocks[3], i256),
            ]
        )
        self.conv_sep = ConvBlock(wide, i512)
        self.features = GDC(i512, map_size(self.input_size), embedding_size)
        initialise_convs(self, "kaiming")
        initialise_linears(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] -> embeddings float32 [B, embedding_size], not normalised."""
        check_input(self, x)
        recompute = self.activation_checkpointing and self.training
        for layer in self.layers:
            x = layer(x, recompute) if isinstance(layer, Residual) else layer(x)
        return float_tail(x, self.conv_sep, self.features)
