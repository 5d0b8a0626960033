"""ResFace: small residual networks of our own for CPU training on 64x64 faces (demo, real-face tests).

IResNet's blocks and its float32 tail; the stem halves the picture, which saves the expensive layers at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facex.models.common import as_size, float_tail, initialise_convs, map_size, run_stage
from facex.models.iresnet import IBasicBlock
from facex.models.registry import register_backbone


@register_backbone(
    "resface_xs", "our small net for 64x64 faces on a CPU", widths=(24, 48, 96, 160), blocks=(1, 1, 1, 1)
)
@register_backbone(
    "resface_s", "our small net for 64x64 faces on a CPU", widths=(32, 64, 128, 192), blocks=(1, 1, 2, 1)
)
class ResFace(nn.Module):
    """ResFace: float32 images [B, 3, H, W] -> embeddings float32 [B, embedding_size].

    Args:
        widths: channels of the four stages.
        blocks: residual blocks in each stage. Every stage but the first halves the map.
        embedding_size: length of the embedding.
        input_size: side the network works at, or (height, width).
        resize: pictures of another size are resampled to `input_size` (area average going down) instead of refused.
        bn_eps: BatchNorm epsilon.
        bn_momentum: weight of the new statistics.
        dropout: probability of dropping an element of the map before `fc`, in training.
        activation_checkpointing: recompute each block in the backward pass.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: Sequence[int] = (1, 1, 2, 1),
        embedding_size: int = 128,
        input_size: int | Sequence[int] = 64,
        resize: bool = True,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.input_size = as_size(input_size)
        self.resize = resize
        self.activation_checkpointing = activation_checkpointing
        self.conv1 = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0], bn_eps, bn_momentum)
        self.prelu = nn.PReLU(widths[0])
        stages = []
        inputs = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            stages.append(
                nn.Sequential(
                    *(
                        IBasicBlock(inputs if i == 0 else width, width, s, bn_eps, bn_momentum)
                        for i, s in enumerate(strides)
                    )
                )
            )
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.bn2 = nn.BatchNorm2d(inputs, bn_eps, bn_momentum)
        self.dropout = nn.Dropout(dropout)
        height, width = map_size(self.input_size)
        self.fc = nn.Linear(inputs * height * width, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size, bn_eps, bn_momentum)
        initialise_convs(self, "kaiming")

    def forward(self, x: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] -> embeddings float32 [B, embedding_size], not normalised."""
        x = self._resized(x)
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = run_stage(stage, x, self.activation_checkpointing and self.training)
        return float_tail(self.dropout(torch.flatten(self.bn2(x), 1)), self.fc, self.features)

    def _resized(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) == self.input_size or not self.resize:
            return x
        return F.interpolate(x, self.input_size, mode="bilinear", align_corners=False, antialias=True)
