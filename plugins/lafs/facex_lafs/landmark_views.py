"""Views of self-supervised LAFS: not crops but sets of patches around landmarks, perturbed and drawn at random.

Source: LAFS (Sun et al., CVPR 2024). Landmarks are found on the clean version of a crop, the patches are cut from its
augmented version. Perturbation adds noise to every coordinate of every view; a local view has a few landmarks drawn
with replacement, whose tokens take the first position embeddings whichever landmarks they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facex.models.common import no_autocast
from facex.ops import sample_patches
from facex_lafs.landmark_cnn import COORDINATE_MAX, LandmarkCNN, normalise_landmarks, output_layer


class LandmarkNetwork(nn.Module):
    """The landmark network alone: pictures [B, 3, H, W] in [-1, 1] -> landmarks (x, y) in pixels [B, N, 2], float32.

    Args:
        landmarks: their number N.
        dropout: on the pooled map, in training only.
        width: factor on the channels.
        coordinate_max: largest coordinate.
    """

    def __init__(
        self, landmarks: int = 196, dropout: float = 0.5, width: float = 1.0, coordinate_max: float = COORDINATE_MAX
    ) -> None:
        super().__init__()
        self.stn = LandmarkCNN(width)
        self.output_layer = output_layer(self.stn.channels, landmarks, dropout)
        self.coordinate_max = coordinate_max

    def landmarks(self, x: Tensor) -> Tensor:
        """Landmarks [B, N, 2]."""
        x = x.float()
        if x.device.type == "cpu" and not self.training:  # its depthwise convolutions take half the time so
            x = x.contiguous(memory_format=torch.channels_last)
        with no_autocast(x):
            return normalise_landmarks(self.output_layer(self.stn(x).mean((2, 3))), self.coordinate_max)

    def forward(self, x: Tensor) -> Tensor:
        """Landmarks [B, N, 2]."""
        return self.landmarks(x)


@dataclass(frozen=True)
class Sampling:
    """How patches are read around landmarks.

    Attributes:
        patch_size: side of a patch.
        noise_sigma: standard deviation, in pixels, of what is added to every coordinate; 0: nothing.
    """

    patch_size: int = 8
    noise_sigma: float = 5.0

    def perturbed(self, landmarks: Tensor, noise: Tensor | None) -> Tensor:
        """Landmarks [B, N, 2] with noise, unit normal [B, N, 2]."""
        return landmarks if noise is None or self.noise_sigma == 0 else landmarks + self.noise_sigma * noise

    def drawn(self, landmarks: Tensor, index: Tensor | None) -> Tensor:
        """The landmarks at index int64 [B, n], or all of them."""
        return landmarks if index is None else landmarks.gather(1, index[..., None].expand(-1, -1, 2))

    def tokens(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """Tokens [B, n, 3 p^2] of images [B, 3, H, W] around landmarks [B, n, 2]."""
        return sample_patches(images, landmarks, self.patch_size)


def draw_index(uniform: Tensor, landmarks: int, replacement: bool = True) -> Tensor:
    """Which landmarks a local view has, int64 [B, n], from uniform numbers in [0, 1).

    `uniform` is [B, n] with replacement; without, [B, landmarks], whose first columns' ranks are the choice, in
    random order: cut the result to the number that is wanted.
    """
    if replacement:
        return (uniform * landmarks).long().clamp_(max=landmarks - 1)
    return uniform.argsort(1)


def random_landmarks(uniform: Tensor, coordinate_max: float = COORDINATE_MAX) -> Tensor:
    """Places anywhere in the picture, from uniform numbers [B, n, 2]: an ablation that needs no landmark network."""
    return uniform * coordinate_max
