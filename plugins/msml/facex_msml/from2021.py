"""FROM (Qiu, Gong, Li, Liu, Tao, TPAMI 2021): end-to-end recognition of occluded faces, one of MSML's comparisons.

A feature pyramid over an IResNet-50 gives a mask of the last map; the mask is also asked which of 226 occlusion patterns
it saw. State-dict names are those that MSML's evaluation scripts read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import as_size, check_input, float_tail, map_size, scaled
from facex.models.registry import register_backbone

BLOCKS = (3, 4, 14, 3)


class FROMOutput(NamedTuple):
    """Embeddings [B, D] of the masked and of the whole last map, the mask [B, C, h, w], the pattern's logits [B, K]."""

    masked: Tensor
    mask: Tensor
    pattern: Tensor
    whole: Tensor


class FROMBlock(nn.Module):
    """facex's IResNet block under the published names (`prelu1`)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu1 = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.prelu1(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + identity


class Pyramid(nn.Module):
    """A feature pyramid of which the finest level is used; the layers of the coarser ones are kept for their names."""

    def __init__(self, c3: int, c4: int, c5: int, size: int) -> None:
        super().__init__()
        for level, channels in ((5, c5), (4, c4), (3, c3)):
            self.add_module(f"P{level}_1", nn.Conv2d(channels, size, 1))
            self.add_module(f"P{level}_2", nn.Conv2d(size, size, 3, padding=1))
        self.P6 = nn.Conv2d(c5, size, 3, 2, padding=1)
        self.P7_2 = nn.Conv2d(size, size, 3, 2, padding=1)
        for name in ("P5_2", "P4_2", "P6", "P7_2"):
            self.get_submodule(name).requires_grad_(False)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> Tensor:
        """Maps of three stages -> [B, size, H, W] at the finest one's size."""
        x = self.get_submodule("P5_1")(c5)
        for level, finer in ((4, c4), (3, c3)):
            x = nn.functional.interpolate(x, scale_factor=2, mode="nearest") + self.get_submodule(f"P{level}_1")(finer)
        return self.get_submodule("P3_2")(x)


@register_backbone("from2021", "FROM (TPAMI 2021), 112x96")
class FROM(nn.Module):
    """FROM: pictures [B, 3, H, W], +-1 -> embeddings float32 [B, embedding_size].

    Args:
        embedding_size: length of the embedding.
        input_size: side of the picture, or (height, width), multiples of 16; (112, 96) is the published one.
        patterns: occlusion patterns that `pattern` tells apart.
        feature: the embedding that the network returns: of the whole last map (as MSML's evaluation took it) or of the
            masked one (as its authors do).
        width: multiplies the channels (rounded to multiples of 8).
        dropout: probability before the last layers, in training mode.
    """

    def __init__(
        self,
        embedding_size: int = 512,
        input_size: int | Sequence[int] = (112, 96),
        patterns: int = 226,
        feature: Literal["whole", "masked"] = "whole",
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if feature not in ("whole", "masked"):
            raise ConfigError(f"FROM: feature must be whole or masked, not {feature!r}")
        self.embedding_size, self.input_size, self.feature = embedding_size, as_size(input_size), feature
        if any(side % 16 for side in self.input_size):
            raise ConfigError(f"FROM needs sides that are multiples of 16, not {self.input_size}")
        c = [scaled(channels, width) for channels in (64, 64, 128, 256, 512)]
        size = c[3]
        self.conv1 = nn.Conv2d(3, c[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c[0])
        self.prelu1 = nn.PReLU(c[0])
        for stage, count in enumerate(BLOCKS):
            blocks = [FROMBlock(c[stage], c[stage + 1], 2)]
            blocks += [FROMBlock(c[stage + 1], c[stage + 1], 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.mask = nn.Sequential(
            nn.Conv2d(size, size, 3, 2, padding=1, bias=False),
            nn.PReLU(size),
            nn.BatchNorm2d(size),
            nn.Conv2d(size, c[4], 3, 2, padding=1, bias=False),
            nn.Sigmoid(),
        )
        self.fpn = Pyramid(c[2], c[3], c[4], size)
        flat = c[4] * map_size(self.input_size)[0] * map_size(self.input_size)[1]
        self.regress = nn.Sequential(
            nn.BatchNorm1d(flat), nn.Dropout(dropout), nn.Linear(flat, patterns, bias=False), nn.BatchNorm1d(patterns)
        )
        self.fc = nn.Sequential(
            nn.BatchNorm1d(flat), nn.Dropout(dropout), nn.Linear(flat, embedding_size), nn.BatchNorm1d(embedding_size)
        )

    def outputs(self, x: Tensor) -> FROMOutput:
        """Everything the published network returns."""
        last, mask = self._maps(x)
        return FROMOutput(self._embed(last * mask), mask, float_tail(mask.flatten(1), self.regress), self._embed(last))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> embeddings float32 [B, D] of the chosen feature, not normalised."""
        last, mask = self._maps(x)
        return self._embed(last * mask if self.feature == "masked" else last)

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_input(self, x)
        x = self.prelu1(self.bn1(self.conv1(x)))
        features = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            features.append(x)
        return x, self.mask(self.fpn(*features[1:]))

    def _embed(self, x: Tensor) -> Tensor:
        return float_tail(torch.flatten(x, 1), self.fc)
