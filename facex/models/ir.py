"""IR and IR-SE, AdaFace's residual networks.

Source: AdaFace `net.py` (c60eaa78), the same in CVLface's `models/iresnet`; state-dict names, shapes and order are its
own. It differs from IResNet in the shortcut of the first block (pure subsampling where the width stays), in the last
BatchNorm, which has no weight and bias, and in the names.

    input_layer      3x3 convolution, BatchNorm, PReLU
    output_layer     BatchNorm2d, dropout, flatten (C, H, W), Linear, BatchNorm1d: the last two in float32
    body             blocks, flat over the four stages; the first of each stage halves the picture

The official network returns (unit embedding, norm). Here, as in every backbone, `forward` returns the raw embedding,
which is what a margin head reads; `unit_and_norm` returns the official pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
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

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    101: (3, 13, 30, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BOTTLENECK_FROM = 152  # these and deeper ones have bottleneck blocks and four times the channels
DROPOUT = 0.4
SE_REDUCTION = 16


class Subsample(nn.Module):
    """Every `stride`-th pixel (officially MaxPool2d(1, stride): the same values)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]."""
        return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]


class SqueezeExcite(nn.Module):
    """Each channel times a factor in (0, 1) that two 1x1 convolutions make of the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // SE_REDUCTION)
        self.fc1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.fc2 = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


class IRBlock(nn.Module):
    """res_layer(x) + shortcut_layer(x); two 3x3 convolutions, or 1x1, 3x3, 1x1 in a bottleneck. The last has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool, se: bool) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = Subsample(stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        # inputs, outputs, kernel, stride of the convolutions
        shapes = [(inputs, outputs, 3, 1), (outputs, outputs, 3, stride)]
        if bottleneck:
            inner = outputs // 4
            shapes = [(inputs, inner, 1, 1), (inner, inner, 3, 1), (inner, outputs, 1, stride)]
        layers: list[nn.Module] = [nn.BatchNorm2d(inputs)]
        for position, (i, o, kernel, step) in enumerate(shapes):
            layers += [nn.Conv2d(i, o, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(o)]
            if position < len(shapes) - 1:
                layers.append(nn.PReLU(o))
        self.res_layer = nn.Sequential(*layers)
        if se:
            self.res_layer.add_module("se_block", SqueezeExcite(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        return self.res_layer(x) + self.shortcut_layer(x)


@register_backbone("ir_18", "AdaFace's IR-18", depth=18)
@register_backbone("ir_34", "AdaFace's IR-34", depth=34)
@register_backbone("ir_50", "AdaFace's IR-50", depth=50)
@register_backbone("ir_101", "AdaFace's IR-101", depth=101)
@register_backbone("ir_152", "AdaFace's IR-152 (bottlenecks)", depth=152)
@register_backbone("ir_200", "AdaFace's IR-200 (bottlenecks)", depth=200)
@register_backbone("ir_se_50", "AdaFace's IR-SE-50", depth=50, se=True)
@register_backbone("ir_se_101", "AdaFace's IR-SE-101", depth=101, se=True)
@register_backbone("ir_se_152", "AdaFace's IR-SE-152 (bottlenecks)", depth=152, se=True)
@register_backbone("ir_se_200", "AdaFace's IR-SE-200 (bottlenecks)", depth=200, se=True)
class IR(nn.Module):
    """IR: float32 images [B, 3, H, W] (AdaFace: BGR, +-1) -> embeddings float32 [B, embedding_size].

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        se: squeeze-and-excitation at the end of every block.
        embedding_size: length of the embedding.
        input_size: side of the picture, or (height, width); published: 112 (224 is provided for).
        width: multiplies all channels (rounded to multiples of 8); 1 is the published network.
        blocks: residual blocks in each of the four stages, instead of `depth`'s.
        bn_eps: BatchNorm epsilon.
        bn_momentum: weight of the new statistics.
        dropout: probability of dropping an element of the last map, in training.
        activation_checkpointing: recompute each block in the backward pass.
    """

    def __init__(
        self,
        depth: int = 50,
        se: bool = False,
        embedding_size: int = 512,
        input_size: int | Sequence[int] = 112,
        width: float = 1.0,
        blocks: Sequence[int] | None = None,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
        dropout: float | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ConfigError(f"IR has no depth {depth}; known: {', '.join(map(str, DEPTHS))}")
        self.embedding_size = embedding_size
        self.input_size = as_size(input_size)
        self.activation_checkpointing = activation_checkpointing
        bottleneck = depth >= BOTTLENECK_FROM
        stem, *stages = (scaled(c, width) for c in (64, 64, 128, 256, 512))
        stages = [4 * c for c in stages] if bottleneck else stages
        height, breadth = map_size(self.input_size)
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(stages[-1]),
            nn.Dropout(DROPOUT if dropout is None else dropout),
            nn.Flatten(),
            nn.Linear(stages[-1] * height * breadth, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=False),
        )
        body: list[nn.Module] = []
        inputs = stem
        for outputs, count in zip(stages, DEPTHS[depth] if blocks is None else blocks, strict=True):
            for index in range(count):
                body.append(IRBlock(inputs, outputs, 2 if index == 0 else 1, bottleneck, se))
                inputs = outputs
        self.body = nn.Sequential(*body)
        initialise_convs(self, "kaiming")
        initialise_linears(self)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eps, module.momentum = bn_eps, bn_momentum

    def forward(self, x: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] -> embeddings float32 [B, embedding_size], not normalised."""
        check_input(self, x)
        x = self.input_layer(x)
        x = run_stage(self.body, x, self.activation_checkpointing and self.training)
        normed, dropout, flatten, linear, last = self.output_layer
        return float_tail(flatten(dropout(normed(x))), linear, last)

    def unit_and_norm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the official network returns: embeddings of length 1 [B, D] and their lengths before that [B, 1]."""
        embedding = self(x)
        norm = embedding.norm(dim=1, keepdim=True)
        return embedding / norm, norm
