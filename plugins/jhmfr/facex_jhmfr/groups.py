"""Parameter groups of JHMFR: no decay on biases, norms and positions; and a rate that falls with the depth (BEiT)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from torch import nn

from facex.errors import ConfigError
from facex.methods import Group

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_FIRST = ("patch_embed", "prompts_heads")
DECAY_SCHEDULE = "weight_decay"


def layer_scales(decay: float, depth: int) -> list[float]:
    """decay^(depth + 1 - k) for layer k = 0 (patches, positions), 1 .. depth (blocks), depth + 1 (the rest)."""
    if not 0 < decay <= 1:
        raise ConfigError(f"layer_decay {decay} must be above 0 and at most 1")
    return [decay ** (depth + 1 - k) for k in range(depth + 2)]


def layer_of(name: str, depth: int) -> int:
    """The layer of a FaceT's parameter; prompts train at the full rate, like the class head."""
    if name in ("pos_embed", "cls_token") or name.startswith(_FIRST):
        return 0
    block = _BLOCK.match(name)
    return int(block[1]) + 1 if block else depth + 1


def decay_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    skip: Collection[str] = (),
    scales: Sequence[float] | None = None,
    scheduled: bool = False,
) -> list[Group]:
    """Groups in the order in which their first parameter comes.

    Parameters of one dimension, biases, and those called in `skip` have no weight decay. scales: rate factors by layer
    (see `layer_scales`). scheduled: the decay of the others follows the schedule "weight_decay".
    """
    depth = 0 if scales is None else len(scales) - 2
    groups: dict[tuple[int | None, bool], Group] = {}
    for name, parameter in parameters:
        layer = None if scales is None else layer_of(name, depth)
        flat = parameter.ndim <= 1 or name.endswith((".bias", "no_decay")) or name in skip
        if (layer, flat) not in groups:
            groups[layer, flat] = _empty(
                layer, flat, 1.0 if layer is None or scales is None else scales[layer], scheduled
            )
        groups[layer, flat].parameters.append(parameter)
    return list(groups.values())


def _empty(layer: int | None, flat: bool, scale: float, scheduled: bool) -> Group:
    name = "default" if layer is None else f"layer {layer}"
    if flat:
        return Group([], f"{name} (no decay)", scale, weight_decay=0.0)
    return Group([], name, scale, weight_decay_schedule=DECAY_SCHEDULE if scheduled else None)
