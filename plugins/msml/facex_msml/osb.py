"""OSB, the occlusion segmentation branch: a U-Net whose skips are large separable convolutions.

Encoder: the blocks of IResNet-18 behind a stem of stride 2. Decoder: one transposed convolution a scale, no norm and no
activation; every scale has 18 channels. The last map is averaged over 9 neighbouring channels: channel 0 is "occluded",
1 is "clean". Source: MSML (Yuan, Zheng, Dong, AAAI 2022), section 3.2; the published code's state-dict names are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import as_size, check_input, scaled
from facex.models.iresnet import IBasicBlock
from facex_msml.fm import SEGMENTATION_CHANNELS
from facex_msml.lightcnn import luminance

CLASSES = 2
KERNEL = 7
_GROUP = SEGMENTATION_CHANNELS // CLASSES


class Segmentation(NamedTuple):
    """What the branch gives: decoder maps for the operators, largest first, and the logits [B, 2, H, W]."""

    maps: tuple[Tensor, Tensor, Tensor, Tensor]
    final: Tensor


class GlobalConvolution(nn.Module):
    """Two separable 7x7 paths, vertical first and horizontal first, added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        high, wide, pad = (KERNEL, 1), (1, KERNEL), KERNEL // 2
        self.conv_l1 = nn.Conv2d(inputs, outputs, high, padding=(pad, 0))
        self.conv_l2 = nn.Conv2d(outputs, outputs, wide, padding=(0, pad))
        self.conv_r1 = nn.Conv2d(inputs, outputs, wide, padding=(0, pad))
        self.conv_r2 = nn.Conv2d(outputs, outputs, high, padding=(pad, 0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class OSB(nn.Module):
    """Pictures [B, 3, H, W] (gray: [B, 1, H, W]) -> Segmentation.

    The maps are detached: the recognition loss does not reach this branch, which learns from its own loss alone.

    Args:
        gray: one channel; pictures of three channels in [0, 1] are converted.
        input_size: side of the picture, or (height, width); multiples of 16.
        width: multiplies the encoder's channels (rounded to multiples of 8); 1 is the published network.
    """

    def __init__(self, gray: bool = False, input_size: int | Sequence[int] = 112, width: float = 1.0) -> None:
        super().__init__()
        self.gray, self.input_size = gray, as_size(input_size)
        if any(side % 16 for side in self.input_size):
            raise ConfigError(f"the segmentation branch needs sides that are multiples of 16, not {self.input_size}")
        c = [scaled(channels, width) for channels in (64, 64, 128, 256, 512)]
        maps = SEGMENTATION_CHANNELS
        self.conv1 = nn.Conv2d(1 if gray else 3, c[0], 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c[0])
        self.prelu = nn.PReLU(c[0])
        for stage in range(4):
            blocks = [
                IBasicBlock(c[stage], c[stage + 1], 2, 1e-5, 0.1),
                IBasicBlock(c[stage + 1], c[stage + 1], 1, 1e-5, 0.1),
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn2 = nn.BatchNorm2d(c[4])
        self.gcm1 = GlobalConvolution(c[4], KERNEL + 1)
        for number, channels in zip((2, 3, 4, 5), (c[3], c[2], c[1], c[0]), strict=True):
            self.add_module(f"gcm{number}", GlobalConvolution(channels, maps))
        kernel = _smallest_kernel(self.input_size[0]), _smallest_kernel(self.input_size[1])
        self.deconv1 = nn.ConvTranspose2d(KERNEL + 1, maps, kernel, 2, 1, bias=False)
        for number in (2, 3, 4, 5):
            self.add_module(f"deconv{number}", nn.ConvTranspose2d(2 * maps, maps, 4, 2, 1, bias=False))

    def forward(self, x: Tensor) -> Segmentation:
        """The four decoder maps [B, 18, H / 2, W / 2] ... [B, 18, H / 16, W / 16], detached, and the logits."""
        check_input(self, x)
        if self.gray and x.shape[1] == 3:
            x = luminance(x)
        features = [self.prelu(self.bn1(self.conv1(x)))]
        for stage in range(1, 5):
            features.append(self.get_submodule(f"layer{stage}")(features[-1]))
        segmentation = self.deconv1(self.gcm1(self.bn2(features.pop())))
        maps: list[Tensor] = []
        for number in (2, 3, 4, 5):
            maps.insert(0, segmentation.detach())
            skip = self.get_submodule(f"gcm{number}")(features.pop())
            segmentation = self.get_submodule(f"deconv{number}")(torch.cat([segmentation, skip], 1))
        final = segmentation.unflatten(1, (CLASSES, _GROUP)).mean(2)
        return Segmentation((maps[0], maps[1], maps[2], maps[3]), final)


def _smallest_kernel(side: int) -> int:
    """Of the first transposed convolution, from ceil(side / 32) to side / 16, which is one less than twice that if odd."""
    return 3 if side // 16 % 2 else 4
