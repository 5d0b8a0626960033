"""LightCNN-29 v2 (Wu, He, Sun, Tan, TIFS 2018): max-feature-map layers instead of activations; gray pictures.

State-dict names are the published LightCNN_29Layers_V2's, without its classifier `fc2`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import as_size, check_input, float_tail, scaled
from facex.models.registry import register_backbone

CHANNELS = (48, 96, 192, 128)
BLOCKS = (1, 2, 3, 4)


def luminance(x: Tensor) -> Tensor:
    """RGB in [0, 1], float32 [B, 3, H, W] -> gray [B, 1, H, W], with Pillow's integer weights and rounding for "L"."""
    weights = torch.tensor([19595.0, 38470.0, 7471.0], dtype=torch.float64, device=x.device).view(1, 3, 1, 1)
    levels = (x * 255).round()
    return (((levels * weights).sum(1, keepdim=True) + 32768).div(65536).floor() / 255).to(x.dtype)


class MaxFeatureMap(nn.Module):
    """A convolution to twice the channels; the larger of each pair (c, c + outputs) remains."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(inputs, 2 * outputs, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        first, second = self.filter(x).chunk(2, 1)
        return torch.max(first, second)


class LightBlock(nn.Module):
    """Two max-feature-map layers, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = MaxFeatureMap(channels, channels, 3, 1)
        self.conv2 = MaxFeatureMap(channels, channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.conv2(self.conv1(x)) + x


class LightGroup(nn.Module):
    """1x1, then 3x3 to another number of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_a = MaxFeatureMap(inputs, inputs, 1, 0)
        self.conv = MaxFeatureMap(inputs, outputs, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        return self.conv(self.conv_a(x))


@register_backbone("lightcnn29v2", "LightCNN-29 v2, gray 128x128 in [0, 1]")
class LightCNN(nn.Module):
    """Pictures in [0, 1], gray [B, 1, H, W] or RGB [B, 3, H, W] -> embeddings float32 [B, embedding_size].

    Args:
        embedding_size: length of the embedding (256 in the published network).
        input_size: side of the picture, or (height, width); multiples of 16. 128 is the published one.
        width: multiplies the channels 48, 96, 192, 128 (rounded to multiples of 8); 1 is the published network.
        dropout: probability in training mode, on the embedding.
    """

    def __init__(
        self,
        embedding_size: int = 256,
        input_size: int | Sequence[int] = 128,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding_size, self.input_size = embedding_size, as_size(input_size)
        if any(side % 16 for side in self.input_size):
            raise ConfigError(f"LightCNN needs sides that are multiples of 16, not {self.input_size}")
        self.channels = tuple(scaled(c, width) for c in CHANNELS)
        c = self.channels
        self.conv1 = MaxFeatureMap(1, c[0], 5, 2)
        for number, (channels, outputs) in enumerate(zip(c, (*c[1:], c[3]), strict=True), 1):
            self.add_module(f"block{number}", nn.Sequential(*(LightBlock(channels) for _ in range(BLOCKS[number - 1]))))
            self.add_module(f"group{number}", LightGroup(channels, outputs))
        height, width_ = (side // 16 for side in self.input_size)
        self.fc = nn.Linear(c[3] * height * width_, embedding_size)
        self.dropout = nn.Dropout(dropout)

    def stem(self, x: Tensor) -> Tensor:
        """Gray or RGB pictures -> gray [B, 1, H, W]."""
        check_input(self, x)
        return luminance(x) if x.shape[1] == 3 else x

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Stage 0 to 3, pooled."""
        if number == 0:
            x = self.conv1(x)
        else:
            for part in (number,) if number < 3 else (3, 4):
                x = self.get_submodule(f"group{part}")(self.get_submodule(f"block{part}")(x))
        return nn.functional.max_pool2d(x, 2) + nn.functional.avg_pool2d(x, 2)

    def final_map(self, x: Tensor) -> Tensor:
        """The last stage's output is the last map."""
        return x

    def embedding(self, x: Tensor) -> Tensor:
        """The last map -> embeddings float32 [B, D]."""
        return self.dropout(float_tail(torch.flatten(x, 1), self.fc))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> embeddings float32 [B, D], not normalised."""
        x = self.stem(x)
        for number in range(4):
            x = self.stage(number, x)
        return self.embedding(self.final_map(x))
