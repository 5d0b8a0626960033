"""Which published backbone a state dict belongs to, by its names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from facex.models.iresnet import architecture_of

# Prefixes under which official training codes keep a backbone.
PREFIXES = (
    "",
    "module.",
    "model.",
    "net.",
    "backbone.",
    "state_dict_backbone.",
    "module.features.",
    "features.module.",
    "features.",
)
# (embed_dim, depth, patch size, MLP width / embed_dim) -> registered name.
_VITS = {
    (256, 12, 9, 4.0): "vit_t",
    (512, 12, 9, 4.0): "vit_s",
    (512, 24, 9, 4.0): "vit_b",
    (768, 24, 9, 4.0): "vit_l_dp005_mask_005",
    (1024, 48, 9, 4.0): "vit_h",
    (512, 12, 8, 5.0): "vit_s_patch8",
    (512, 24, 8, 3.0): "vit_b_patch8",
}

_MOBILE: dict[tuple[int, ...], str] = {(4, 6, 2): "mbf", (8, 12, 4): "mbf_large"}  # by residual blocks


@dataclass(frozen=True)
class Identified:
    """A registered backbone's name, the embedding size, and options that differ from the name's preset."""

    name: str
    embedding_size: int
    prefix: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        where = f" under {self.prefix!r}" if self.prefix else ""
        return f"{self.name} with an embedding of {self.embedding_size}{where}"


def identify_backbone(state: Mapping[str, Any], prefixes: Iterable[str] = PREFIXES) -> Identified | None:
    """The published backbone whose tensors lie in `state` under one of `prefixes`; None if there is none.

    An IResNet is named in insightface's form (`r50`): its names do not tell it from MagFace's.
    """
    for prefix in prefixes:
        for family in (_iresnet, _ir, _mobilefacenet, _vit):
            found = family(state, prefix)
            if found is not None:
                return found
    return None


def _iresnet(state: Mapping[str, Any], prefix: str) -> Identified | None:
    found = architecture_of(state, prefix)
    return Identified(f"r{found[0]}", found[1], prefix) if found else None


def _ir(state: Mapping[str, Any], prefix: str) -> Identified | None:
    from facex.models.ir import BOTTLENECK_FROM, DEPTHS

    blocks = _count(state, f"{prefix}body.{{}}.res_layer.1.weight")
    last = state.get(f"{prefix}output_layer.3.weight")
    if blocks == 0 or last is None:
        return None
    bottleneck = f"{prefix}body.0.res_layer.7.weight" in state
    se = f"{prefix}body.0.res_layer.se_block.fc1.weight" in state
    depths = [d for d, b in DEPTHS.items() if sum(b) == blocks and (d >= BOTTLENECK_FROM) == bottleneck]
    return Identified(f"ir_{'se_' if se else ''}{depths[0]}", int(last.shape[0]), prefix) if depths else None


def _mobilefacenet(state: Mapping[str, Any], prefix: str) -> Identified | None:
    linear = state.get(f"{prefix}features.layers.2.weight")
    if linear is None or f"{prefix}conv_sep.layers.0.weight" not in state:
        return None
    counts = tuple(_count(state, f"{prefix}layers.{i}.layers.{{}}.layers.0.layers.0.weight") for i in (3, 5, 7))
    name = _MOBILE.get(counts)
    return Identified(name, int(linear.shape[0]), prefix) if name else None


def _vit(state: Mapping[str, Any], prefix: str) -> Identified | None:
    patches, mlp, last = (
        state.get(f"{prefix}{key}")
        for key in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "feature.2.weight")
    )
    if patches is None or mlp is None or last is None:
        return None
    depth = _count(state, f"{prefix}blocks.{{}}.norm1.weight")
    width, patch = int(patches.shape[0]), int(patches.shape[-1])
    name = _VITS.get((width, depth, patch, mlp.shape[0] / width))
    if name is None:
        return None
    options = {} if f"{prefix}mask_token" in state else {"mask_token": False, "mask_ratio": 0.0}
    return Identified(name, int(last.shape[0]), prefix, options)


def _count(state: Mapping[str, Any], pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... are there without a gap."""
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count
