"""Parameter groups: SARFace (as AdaFace) decays everything of the recogniser but BatchNorm's weights and biases."""

from __future__ import annotations

from torch import nn

from facex.methods import Group

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def policy_groups(policy: nn.Module) -> list[Group]:
    """One group, without decay."""
    return [Group([p for p in policy.parameters() if p.requires_grad], "policy", weight_decay=0.0)]


def recogniser_groups(recogniser: nn.Module) -> list[Group]:
    """What decays (biases and PReLU slopes too), and the normalisation layers, which do not."""
    layers = [m for m in recogniser.modules() if isinstance(m, NORMS)]
    norms = {id(p) for m in layers for p in m.parameters(recurse=False)}
    parameters = [p for p in recogniser.parameters() if p.requires_grad]
    return [
        Group([p for p in parameters if id(p) not in norms]),
        Group([p for p in parameters if id(p) in norms], name="norms", weight_decay=0.0),
    ]
