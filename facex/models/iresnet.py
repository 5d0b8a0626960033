"""IResNet, the residual network of MagFace and of insightface: one class, their differences are arguments.

Source: MagFace `models/iresnet.py` (99bae614), insightface `arcface_torch/backbones/iresnet.py` (7fadd420). State-dict
names and shapes are those of both, so official weights load strictly in either form.

    stem      conv1 3x3 stride 1, bn1, prelu
    layer1-4  blocks; the first of each halves the picture (112 -> 56 -> 28 -> 14 -> 7)
    tail      bn2, dropout, flatten (C, H, W), fc, features (BatchNorm1d): in float32 whatever the autocast says,
              because the length of the embedding is a result
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.models.common import as_size, check_input, float_tail, initialise_convs, map_size, run_stage, scaled
from facex.models.registry import register_backbone

FormName = Literal["magface", "insightface"]
DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
    2060: (3, 128, 896, 3),
}


@dataclass(frozen=True)
class Form:
    """What the two published implementations do differently."""

    bn_eps: float
    bn_momentum: float  # PyTorch's meaning: the weight of the new statistics
    dropout: float
    dropout_kind: Literal["channel", "element"]  # Dropout2d before the flatten, Dropout after it
    frozen_scale: bool  # features.weight stays 1, without gradient (and so without weight decay)
    conv_init: Literal["kaiming", "normal"]  # Kaiming normal over fan_out for ReLU, or N(0, 0.1)


FORMS: dict[str, Form] = {
    "magface": Form(2e-5, 0.9, 0.4, "channel", False, "kaiming"),
    "insightface": Form(1e-5, 0.1, 0.0, "element", True, "normal"),
}


class IBasicBlock(nn.Module):
    """BN, conv, BN, PReLU, conv (with the stride), BN, plus the input (through a 1x1 conv where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps, momentum)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps, momentum)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, eps, momentum)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs, eps, momentum)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + identity


@register_backbone("iresnet18", "IResNet-18 in MagFace's form", depth=18, form="magface")
@register_backbone("iresnet34", "IResNet-34 in MagFace's form", depth=34, form="magface")
@register_backbone("iresnet50", "IResNet-50 in MagFace's form", depth=50, form="magface")
@register_backbone("iresnet100", "IResNet-100 in MagFace's form", depth=100, form="magface")
@register_backbone("iresnet200", "IResNet-200 in MagFace's form", depth=200, form="magface")
@register_backbone("r18", "IResNet-18 in insightface's form", depth=18, form="insightface")
@register_backbone("r34", "IResNet-34 in insightface's form", depth=34, form="insightface")
@register_backbone("r50", "IResNet-50 in insightface's form", depth=50, form="insightface")
@register_backbone("r100", "IResNet-100 in insightface's form", depth=100, form="insightface")
@register_backbone("r200", "IResNet-200 in insightface's form", depth=200, form="insightface")
@register_backbone("r2060", "IResNet-2060, checkpointed", depth=2060, form="insightface", activation_checkpointing=True)
class IResNet(nn.Module):
    """IResNet: float32 images [B, 3, H, W] (normalised by the InputSpec) -> embeddings float32 [B, embedding_size].

    Args:
        depth: 18, 34, 50, 100, 200 or 2060.
        form: the published form whose defaults the unset arguments below take.
        embedding_size: length of the embedding (512 in every published checkpoint).
        input_size: side of the picture, or (height, width). 112 gives the published 7x7 map before `fc`; other sizes
            are ours: the map is ceil(size / 16) on a side and only `fc` changes its shape.
        width: multiplies the channels 64, 128, 256, 512 (rounded to multiples of 8); 1 is the published network.
        blocks: residual blocks in each of the four stages, instead of `depth`'s.
        bn_eps: BatchNorm epsilon (MagFace 2e-5, insightface 1e-5).
        bn_momentum: weight of the new statistics (MagFace 0.9, insightface 0.1).
        dropout: probability in training mode, before `fc` (MagFace 0.4, insightface 0).
        dropout_kind: whole channels before the flatten (MagFace) or single elements after it (insightface).
        frozen_scale: fix `features.weight` at 1 without gradient (insightface).
        conv_init: "kaiming" (fan_out, MagFace) or "normal" (N(0, 0.1), insightface).
        activation_checkpointing: recompute each block in the backward pass: less memory, the same numbers.
    """

    def __init__(
        self,
        depth: int = 50,
        form: FormName = "magface",
        embedding_size: int = 512,
        input_size: int | Sequence[int] = 112,
        width: float = 1.0,
        blocks: Sequence[int] | None = None,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        dropout: float | None = None,
        dropout_kind: Literal["channel", "element"] | None = None,
        frozen_scale: bool | None = None,
        conv_init: Literal["kaiming", "normal"] | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        base = FORMS[form]
        counts = tuple(blocks) if blocks is not None else _blocks_of(depth)
        self.eps = base.bn_eps if bn_eps is None else bn_eps
        self.momentum = base.bn_momentum if bn_momentum is None else bn_momentum
        self.dropout_kind = dropout_kind or base.dropout_kind
        self.frozen_scale = base.frozen_scale if frozen_scale is None else frozen_scale
        self.embedding_size = embedding_size
        self.input_size = as_size(input_size)
        self.activation_checkpointing = activation_checkpointing
        channels = [scaled(c, width) for c in (64, 64, 128, 256, 512)]

        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0], self.eps, self.momentum)
        self.prelu = nn.PReLU(channels[0])
        for stage, count in enumerate(counts):
            self.add_module(f"layer{stage + 1}", self._stage(channels[stage], channels[stage + 1], count))
        self.bn2 = nn.BatchNorm2d(channels[4], self.eps, self.momentum)
        p = base.dropout if dropout is None else dropout
        self.dropout: nn.Module = nn.Dropout2d(p) if self.dropout_kind == "channel" else nn.Dropout(p)
        self.map_size = map_size(self.input_size)
        self.fc = nn.Linear(channels[4] * self.map_size[0] * self.map_size[1], embedding_size)
        self.features = nn.BatchNorm1d(embedding_size, self.eps, self.momentum)
        self.features.weight.requires_grad_(not self.frozen_scale)
        initialise_convs(self, conv_init or base.conv_init)

    def _stage(self, inputs: int, outputs: int, count: int) -> nn.Sequential:
        blocks = [IBasicBlock(inputs, outputs, 2, self.eps, self.momentum)]
        blocks += [IBasicBlock(outputs, outputs, 1, self.eps, self.momentum) for _ in range(count - 1)]
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] -> embeddings float32 [B, embedding_size], not normalised."""
        check_input(self, x)
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = run_stage(self.get_submodule(f"layer{stage}"), x, self.activation_checkpointing and self.training)
        x = self.bn2(x)
        if self.dropout_kind == "channel":
            x = torch.flatten(self.dropout(x), 1)
        else:
            x = self.dropout(torch.flatten(x, 1))
        return float_tail(x, self.fc, self.features)


def _blocks_of(depth: int) -> tuple[int, int, int, int]:
    if depth not in DEPTHS:
        raise ConfigError(f"IResNet has no depth {depth}; known: {', '.join(map(str, DEPTHS))}")
    return DEPTHS[depth]


def architecture_of(state: Mapping[str, Any], prefix: str = "") -> tuple[int, int] | None:
    """(depth, embedding size) of the published IResNet whose tensors lie under `prefix`; None if there is none."""
    if f"{prefix}layer1.0.bn1.weight" not in state or f"{prefix}fc.weight" not in state:
        return None
    counts: list[int] = []
    for stage in range(1, 5):
        block = 0
        while f"{prefix}layer{stage}.{block}.conv1.weight" in state:
            block += 1
        counts.append(block)
    depth = next((depth for depth, blocks in DEPTHS.items() if list(blocks) == counts), None)
    if depth is None:
        return None
    return depth, int(state[f"{prefix}fc.weight"].shape[0])
