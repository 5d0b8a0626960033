"""The decoder of the peer extension: the clean face from the network's last map (layers of VQ-VAE's decoder)."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """ReLU(x + conv1x1(ReLU(conv3x3(x))))."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, channels, 1))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.relu(self.conv(x) + x)


class Decoder(nn.Module):
    """A map [B, inputs, h, w] -> a picture float32 [B, 3, 16 h, 16 w], as the network's input is normalised.

    Args:
        inputs: channels of the map (512 behind a full iResNet).
    """

    def __init__(self, inputs: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, 64, 64):
            layers += [nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU(), Residual(128, 32), Residual(128, 32)]
            layers += [nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(64, 3, 4, 2, 1))
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, 3, 16 h, 16 w]."""
        return self.net(x)

    def distance(self, x: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        """The rebuilt picture, and its mean squared error against `original` [B, 3, 16 h, 16 w] of each row, float32
        [B]."""
        rebuilt = self(x)
        return rebuilt, (rebuilt.float() - original.float()).square().flatten(1).mean(1)
