"""SARFace's policy: which of the removable regions to keep, from the face and its regions.

Source: SARFace (`models/reinforce.py`, `PolicyNetwork`). A ResNet-18 whose first convolution reads 3 + K channels: the
picture and the K regions' 0/1 masks. The masks are never made: the convolution over them is a look-up of the weights by
region id (`facex.ops.region_conv`), with the same values and gradients.

State-dict names, shapes and order are the official ones: `embed`, `feature_extractor.0` (BatchNorm), `.3` to `.6` (the
four layers of ResNet-18), `fc`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from facex.errors import CheckpointError, ConfigError
from facex.methods.loading import read_state
from facex.ops import region_conv

WIDTHS = (64, 128, 256, 512)
STRIDES = (1, 2, 2, 2)
KERNEL, STRIDE, PADDING = 7, 2, 3
# what torchvision calls the parts of its ResNet-18
_IMAGENET = {"bn1": "feature_extractor.0", **{f"layer{i}": f"feature_extractor.{i + 2}" for i in range(1, 5)}}
_IMAGENET_UNUSED = ("conv1.", "fc.")


class BasicBlock(nn.Module):
    """ResNet's two 3x3 convolutions with a shortcut: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The residual step, with ReLU at its end."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(y + shortcut)


class PolicyNetwork(nn.Module):
    """Pictures float32 [B, 3, H, W] (BGR, +-1) and region ids uint8 [B, H, W] -> logits [B, actions].

    The probability of keeping the region of action j is sigmoid(logits[:, j]). With 12 actions and 24 regions:
    11,257,932 parameters, 122 entries of the state dict.

    Args:
        actions: removable regions.
        regions: regions of the scheme; ids from there on are refused.
        imagenet: a torchvision ResNet-18 file (`resnet18-*.pth`) to start all but `embed` and `fc` from; officially
            IMAGENET1K_V1. Nothing is downloaded.
    """

    def __init__(self, actions: int = 12, regions: int = 24, imagenet: str | Path | None = None) -> None:
        super().__init__()
        self.regions = regions
        self.embed = nn.Conv2d(3 + regions, WIDTHS[0], KERNEL, STRIDE, PADDING, bias=False)
        layers, inputs = [], WIDTHS[0]
        for outputs, stride in zip(WIDTHS, STRIDES, strict=True):
            layers.append(nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)))
            inputs = outputs
        self.feature_extractor = nn.Sequential(
            nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *layers, nn.AdaptiveAvgPool2d(1)
        )
        self.fc = nn.Linear(WIDTHS[-1], actions)
        for module in self.feature_extractor.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if imagenet is not None:
            load_imagenet(self, imagenet)

    def forward(self, images: Tensor, regions: Tensor) -> Tensor:
        """Logits of keeping each removable region."""
        return self.decide(self.embedded(images, regions))

    def probabilities(self, images: Tensor, regions: Tensor) -> Tensor:
        """The same as probabilities [B, actions]."""
        return torch.sigmoid(self(images, regions))

    def embedded(self, images: Tensor, regions: Tensor) -> Tensor:
        """The first convolution [B, 64, H / 2, W / 2] over picture and regions."""
        weight = self.embed.weight
        picture = functional.conv2d(images, weight[:, :3], stride=STRIDE, padding=PADDING)
        return picture + region_conv(regions, weight[:, 3:], STRIDE, PADDING).to(picture.dtype)

    def embedded_state(self, state: Tensor) -> Tensor:
        """The same over a state [B, 3 + regions, H, W] that holds the masks: any weights, not only 0 and 1."""
        found: Tensor = self.embed(state)
        return found

    def features(self, embedded: Tensor) -> Tensor:
        """Pooled features [B, 512] of the first convolution's output.

        Raises ConfigError in training mode for one picture so small that the last BatchNorms see one number.
        """
        small = max(embedded.shape[2:]) <= 2 * math.prod(STRIDES)  # the pooling's stride and the layers'
        if self.training and small and len(embedded) == 1:
            raise ConfigError(
                "a micro-batch of one small picture has no BatchNorm statistics: raise trainer.micro_batch"
            )
        found: Tensor = self.feature_extractor(embedded).flatten(1)
        return found

    def decide(self, embedded: Tensor) -> Tensor:
        """Logits [B, actions] of the first convolution's output."""
        found: Tensor = self.fc(self.features(embedded))
        return found


def load_imagenet(policy: PolicyNetwork, path: str | Path) -> None:
    """Everything but `embed` and `fc` from a torchvision ResNet-18 file, strictly.

    Raises:
        CheckpointError: an unreadable file, or names or shapes that are not ResNet-18's; the message names them.
    """
    own = {key for key in policy.state_dict() if key.startswith("feature_extractor.")}
    state = from_torchvision(read_state(path), str(path))
    differ = sorted(own ^ set(state))
    differ += [key for key in own & set(state) if policy.state_dict()[key].shape != state[key].shape]
    if differ:
        raise CheckpointError(f"{path}: not a torchvision ResNet-18: {', '.join(differ[:6])} ({len(differ)} in all)")
    policy.load_state_dict(state, strict=False)


def from_torchvision(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """A torchvision ResNet-18's tensors under the policy's names, without those of its first convolution and classifier."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(_IMAGENET_UNUSED):
            continue
        part, _, rest = key.partition(".")
        if part not in _IMAGENET:
            raise CheckpointError(f"{where}: {key} is no tensor of a torchvision ResNet-18")
        renamed[f"{_IMAGENET[part]}.{rest}"] = value
    return renamed
