"""The face parser of SARFace: a SwiftFormer encoder and a U-Net decoder of the same blocks.

Source: SARFace (`models/swiftformerUnet.py`), after SwiftFormer (Shaker et al., ICCV 2023). State-dict names, shapes
and order are the official ones. Widths c and depths d of the four stages, for `l1` c = 48, 96, 192, 384 and
d = 4, 3, 10, 5:

    encoder   stem (two 3x3 convolutions of stride 2), then the stages with a 3x3 convolution of stride 2 between them;
              outputs at 1/4, 1/8, 1/16, 1/32 of the picture, each through a BatchNorm of its own
    decoder   the stages in reverse; between them PixelShuffle up by 2, joined with the encoder's output of that size
    logits    3x3 convolution and PixelShuffle by 4: as large as the picture

Only `l1` is published. The other variants have the widths and depths that the official file names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex_sarface.swiftformer_blocks import stage

Variant = Literal["xs", "s", "l1", "l1_tiny", "l3"]
# widths and depths of the four stages
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "xs": ((48, 56, 112, 220), (3, 3, 6, 4)),
    "s": ((48, 64, 168, 224), (3, 3, 9, 6)),
    "l1": ((48, 96, 192, 384), (4, 3, 10, 5)),
    "l1_tiny": ((24, 48, 96, 192), (4, 3, 10, 5)),
    "l3": ((64, 128, 320, 512), (4, 4, 12, 6)),
}
STRIDE = 32  # the picture's sides are multiples of this
PATCH = 4  # the finest map is this much smaller than the picture
MLP_RATIO = 4
INIT_STD = 0.02


class Down(nn.Module):
    """3x3 convolution of stride 2 and BatchNorm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / 2, W / 2]."""
        found: Tensor = self.norm(self.proj(x))
        return found


def shuffled_up(inputs: int, outputs: int, factor: int) -> nn.Sequential:
    """3x3 convolution and PixelShuffle: [B, inputs, H, W] -> [B, outputs, factor H, factor W]."""
    return nn.Sequential(nn.Conv2d(inputs, outputs * factor**2, 3, padding=1), nn.PixelShuffle(factor))


class Encoder(nn.Module):
    """Pictures [B, 3, H, W] -> four maps [B, c_i, H / 2^(i+2), W / 2^(i+2)]."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int], mlp_ratio: float = MLP_RATIO) -> None:
        super().__init__()
        half = widths[0] // 2
        self.patch_embed = nn.Sequential(
            nn.Conv2d(3, half, 3, 2, 1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, widths[0], 3, 2, 1),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        parts: list[nn.Module] = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            parts += [Down(widths[i - 1], width)] if i else []
            parts.append(stage(width, depth, mlp_ratio))
        self.network = nn.ModuleList(parts)
        for i, width in enumerate(widths):
            self.add_module(f"norm{2 * i}", nn.BatchNorm2d(width))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                initialise(module)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Fine to coarse; each through its BatchNorm, which the next stage does not see."""
        x, outputs = self.patch_embed(x), []
        for position, part in enumerate(self.network):
            x = part(x)
            if position % 2 == 0:
                outputs.append(self.get_submodule(f"norm{position}")(x))
        return outputs


class Decoder(nn.Module):
    """The encoder's maps, fine to coarse -> logits [B, classes, H, W]."""

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], classes: int, mlp_ratio: float = MLP_RATIO
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for i in reversed(range(len(widths))):
            parts.append(stage(widths[i], depths[i], mlp_ratio))
            parts.append(shuffled_up(widths[i], widths[i - 1], 2) if i else shuffled_up(widths[i], classes, PATCH))
        self.network = nn.ModuleList(parts)
        self.concat_layers = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths[:-1])
        for blocks in self.network[::2]:
            for module in blocks.modules():
                if isinstance(module, nn.Conv2d):
                    initialise(module)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Up from the coarsest map, each time joined with the encoder's of that size."""
        x = maps[-1]
        for level in reversed(range(len(maps))):
            position = 2 * (len(maps) - 1 - level)
            x = self.network[position + 1](self.network[position](x))
            if level:
                x = self.concat_layers[level - 1](torch.cat([x, maps[level - 1]], 1))
        return x


class SwiftFormerParser(nn.Module):
    """Face pictures float32 [B, 3, H, W] -> logits of the classes [B, classes, H, W]; H and W are multiples of 32.

    SARFace gives it 128 x 128 pictures in BGR, (v / 255 - 0.5) / 0.5 (`facex_sarface.parser`). With `l1` and 19 classes:
    25,405,312 parameters.

    Args:
        variant: xs, s, l1, l1_tiny or l3: widths and depths of the stages. Published: l1.
        classes: labels of the parsing; published: CelebAMask-HQ's 19.
        widths, depths: instead of the variant's.
        decoder_depths: of the decoder's stages, fine to coarse, instead of the encoder's.
        mlp_ratio: hidden width of the blocks by their width.
    """

    def __init__(
        self,
        variant: Variant = "l1",
        classes: int = 19,
        widths: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        decoder_depths: Sequence[int] | None = None,
        mlp_ratio: float = MLP_RATIO,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ConfigError(f"the face parser has no variant {variant!r}; known: {', '.join(VARIANTS)}")
        own_widths, own_depths = VARIANTS[variant]
        widths, depths = widths or own_widths, depths or own_depths
        self.classes = classes
        self.encoder = Encoder(widths, depths, mlp_ratio)
        self.decoder = Decoder(widths, decoder_depths or depths, classes, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError for a picture whose sides are no multiples of 32."""
        if x.dim() != 4 or x.shape[1] != 3 or x.shape[2] % STRIDE or x.shape[3] % STRIDE:
            raise ValueError(
                f"the face parser reads [B, 3, H, W] with H and W multiples of {STRIDE}, not {tuple(x.shape)}"
            )
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


def initialise(module: nn.Conv2d | nn.Linear) -> None:
    """Weights truncated normal with deviation 0.02, biases 0."""
    nn.init.trunc_normal_(module.weight, std=INIT_STD)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
