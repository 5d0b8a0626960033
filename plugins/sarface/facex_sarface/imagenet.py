"""Starting the policy from a ResNet-18 that was trained on ImageNet, as the published code does."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from facex.methods import LoadReport, Source
from facex.methods.loading import read_state
from facex_sarface.masking import POLICY
from facex_sarface.policy_network import PolicyNetwork, load_imagenet

_TORCHVISION = ("conv1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.weight")


def imagenet_start(policy: nn.Module, source: Source) -> list[LoadReport]:
    """Load a torchvision ResNet-18 file that is meant for the policy; an empty list for any other source.

    Raises CheckpointError for a file with other tensors than ResNet-18's.
    """
    if source.network != POLICY or not isinstance(policy, PolicyNetwork) or not Path(source.path).is_file():
        return []
    if not all(name in read_state(source.path) for name in _TORCHVISION):
        return []
    load_imagenet(policy, source.path)
    loaded = [f"{POLICY}.{key}" for key in policy.state_dict() if key.startswith("feature_extractor.")]
    left = [f"{POLICY}.{key}" for key in policy.state_dict() if not key.startswith("feature_extractor.")]
    return [LoadReport(f"{source.path}: ResNet-18 -> {POLICY}", loaded, left)]
