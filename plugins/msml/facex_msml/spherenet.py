"""SphereNet (Liu et al., CVPR 2017) as CosFace uses it: residual stages without any normalisation layer.

State-dict names are those that MSML's evaluation scripts read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import as_size, check_input, float_tail, map_size, scaled
from facex.models.registry import register_backbone

LAYERS: dict[int, tuple[int, int, int, int]] = {20: (1, 2, 4, 1), 64: (3, 7, 16, 3)}


class SphereBlock(nn.Module):
    """x + PReLU(conv(PReLU(conv(x)))), 3x3 without bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.prelu1 = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.prelu2 = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return x + self.prelu2(self.conv2(self.prelu1(self.conv1(x))))


@register_backbone("spherenet20", "SphereNet-20 (CosFace), 112x96", depth=20)
@register_backbone("spherenet64", "SphereNet-64 (CosFace), 112x96", depth=64)
class SphereNet(nn.Module):
    """SphereNet: pictures [B, 3, H, W], +-1 (gray: [B, 1, H, W]) -> embeddings float32 [B, embedding_size].

    Args:
        depth: 20 or 64.
        embedding_size: length of the embedding.
        input_size: side of the picture, or (height, width); (112, 96) is the published one, 112 is used as well.
        width: multiplies the channels 64, 128, 256, 512 (rounded to multiples of 8).
        gray: one channel.
    """

    def __init__(
        self,
        depth: int = 20,
        embedding_size: int = 512,
        input_size: int | Sequence[int] = (112, 96),
        width: float = 1.0,
        gray: bool = False,
    ) -> None:
        super().__init__()
        if depth not in LAYERS:
            raise ConfigError(f"SphereNet has no depth {depth}; known: {', '.join(map(str, LAYERS))}")
        self.embedding_size, self.input_size = embedding_size, as_size(input_size)
        channels = [1 if gray else 3, *(scaled(c, width) for c in (64, 128, 256, 512))]
        for stage, count in enumerate(LAYERS[depth]):
            outputs = channels[stage + 1]
            layers = [nn.Conv2d(channels[stage], outputs, 3, 2, padding=1), nn.PReLU(outputs)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers, *(SphereBlock(outputs) for _ in range(count))))
        height, width_ = map_size(self.input_size)
        self.fc = nn.Linear(channels[4] * height * width_, embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> embeddings float32 [B, embedding_size], not normalised."""
        check_input(self, x)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return float_tail(torch.flatten(x, 1), self.fc)
