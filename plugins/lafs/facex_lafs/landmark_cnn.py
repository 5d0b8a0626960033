"""The landmark network of Part fViT: MobileNetV3-Large without its last convolution, pooled, and a Linear to
coordinates.

Source: LAFS (Sun et al., CVPR 2024), Part fViT (Sun and Tzimiropoulos, BMVC 2022), MobileNetV3 (Howard et al., ICCV
2019). Parameter names are the official ones, under `stn` and `output_layer`. Nothing supervises the coordinates: they
learn through the gradient of the patches that are read around them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facex.errors import TrainingError

# kernel, expansion, channels out, squeeze-and-excitation, h-swish (else ReLU), stride
BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
STEM = 16
COORDINATE_MAX = 111.0  # largest coordinate, whatever the size of the picture: the last pixel of 112


class SqueezeExcite(nn.Module):
    """Channels weighted by h-sigmoid(W2 relu(W1 mean)), no biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 4, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 4, channels, bias=False),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation before the second activation, linear projection."""

    def __init__(self, c_in: int, kernel: int, expansion: int, c_out: int, se: bool, swish: bool, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, expansion, 1, bias=False),
            nn.BatchNorm2d(expansion),
            nn.Hardswish() if swish else nn.ReLU(),
            nn.Conv2d(expansion, expansion, kernel, stride, (kernel - 1) // 2, groups=expansion, bias=False),
            nn.BatchNorm2d(expansion),
            SqueezeExcite(expansion) if se else nn.Identity(),
            nn.Hardswish() if swish else nn.ReLU(),
            nn.Conv2d(expansion, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        return x + self.conv(x) if self.residual else self.conv(x)


class LandmarkCNN(nn.Module):
    """Pictures float32 [B, 3, H, W] in [-1, 1] -> a map [B, channels, H/32, W/32] (160 at width 1).

    Args:
        width: factor on every number of channels, rounded to multiples of 8; 1 is published.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = _scaled(STEM, width)
        stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.Hardswish())
        layers: list[nn.Module] = [stem]
        for kernel, expansion, c_out, se, swish, stride in BLOCKS:
            layers.append(
                InvertedResidual(channels, kernel, _scaled(expansion, width), _scaled(c_out, width), se, swish, stride)
            )
            channels = _scaled(c_out, width)
        self.features = nn.Sequential(*layers)
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """The map before pooling."""
        return self.features(x)


def _scaled(channels: int, width: float) -> int:
    return channels if width == 1 else max(8, 8 * round(channels * width / 8))


def output_layer(channels: int, landmarks: int, dropout: float) -> nn.Sequential:
    """Pooled features [B, channels] -> raw coordinates [B, 2 * landmarks]."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, 2 * landmarks))


def normalise_landmarks(raw: Tensor, coordinate_max: float = COORDINATE_MAX) -> Tensor:
    """Raw coordinates [B, 2N] -> landmarks (x, y) in pixels [B, N, 2].

    The least of all 2N numbers of a picture becomes 0 and the largest `coordinate_max`, x and y together; the
    gradient flows through both. Raises TrainingError (on a GPU: an asynchronous assertion) where they are all equal.
    """
    low, high = raw.amin(1, keepdim=True), raw.amax(1, keepdim=True)
    span = high - low
    flat = span == 0
    if raw.device.type == "cpu":
        if bool(flat.any()):
            row = int(flat.flatten().nonzero()[0])
            raise TrainingError(
                f"the landmark network puts all {raw.shape[1] // 2} landmarks of picture {row} of the batch on one "
                "point: its "
                "output does not depend on the picture any more. Load trained weights (init_from), or lower the "
                "learning rate"
            )
    elif raw.is_cuda:
        torch._assert_async(~flat.any(), "all landmarks of a picture are equal: the landmark network is dead")
    return ((raw - low) / span * coordinate_max).view(len(raw), -1, 2)


def landmark_loss(target: Tensor, predicted: Tensor, coordinate_max: float = COORDINATE_MAX) -> Tensor:
    """Mean squared error a picture [B] of landmarks [B, N, 2] as shares of `coordinate_max`: the regulariser that
    keeps fine-tuned landmarks near those of the frozen network."""
    return F.mse_loss(predicted / coordinate_max, target / coordinate_max, reduction="none").mean((1, 2))
