"""Building blocks of `Method.formats()`: a backbone's own names under a prefix, with or without class centres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from facex.errors import CheckpointError
from facex.methods.spec import Format

HeadLayout = Literal["CD", "DC"]


def bare_format(name: str, network: str, keys: Sequence[str], describe: str = "") -> Format:
    """The network's own state dict and nothing else, the file itself. `keys` are the network's names."""
    return prefixed_format(name, network, keys, "", describe=describe, container="")


def prefixed_format(
    name: str,
    network: str,
    keys: Sequence[str],
    prefix: str,
    head_key: str | None = None,
    head_layout: HeadLayout = "CD",
    describe: str = "",
    head_required: bool = True,
    margin_keys: Mapping[str, str] | None = None,
    constants: Mapping[str, Tensor] | None = None,
    container: str = "state_dict",
) -> Format:
    """Every name of the network under `prefix`, plus class centres under `head_key` (stored [C, D] or [D, C]).

    `margin_keys`: the file's names of the margin's running values -> the margin's own; read into, and written from,
    `meta["margin"]`. `constants`: entries that the official code keeps and never uses; written beside class centres.
    `head_required`: writing without class centres is an error.

    Recognised when the head's key, or at least half of the network's names, are there under the prefix. Reading takes
    everything under the prefix as the network's: what is missing or left over is found when it is loaded, strictly.
    """
    own = [prefix + key for key in keys]
    running, unused = dict(margin_keys or {}), dict(constants or {})

    def recognise(state: dict[str, Any]) -> bool:
        if head_key is not None and head_key in state:
            return True
        return 2 * sum(key in state for key in own) >= len(own)

    def read(state: dict[str, Any]) -> dict[str, Any]:
        beside = {head_key, *running, *unused}
        inside = {key[len(prefix) :]: v for key, v in state.items() if key.startswith(prefix) and key not in beside}
        outside = [key for key in state if not key.startswith(prefix) and key not in beside]
        if outside:
            raise CheckpointError(f"{name}: keys that do not belong to this layout: {shorten(outside)}")
        head = state.get(head_key) if head_key is not None else None
        if head is not None and head_layout == "DC":
            head = head.T.contiguous()
        margin = {own_name: state[key] for key, own_name in running.items() if key in state}
        return {"networks": {network: inside}, "head": head, "meta": {"margin": margin} if margin else {}}

    def write(content: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {prefix + key: value for key, value in content["networks"][network].items()}
        head: Tensor | None = content.get("head")
        if head_key is None:
            return state
        if head is None:
            if head_required:
                raise CheckpointError(f"{name} holds class centres ({head_key}), but there are none to write")
            return state
        state[head_key] = head.T.contiguous() if head_layout == "DC" else head
        margin = content.get("meta", {}).get("margin", {})
        values = {key: margin[own_name] for key, own_name in running.items() if own_name in margin}
        return {**state, **({key: v.clone() for key, v in unused.items()} if values else {}), **values}

    return Format(name, recognise, read, write, describe, container)


def compare(
    expected: Mapping[str, Tensor], found: Mapping[str, Any]
) -> tuple[list[str], list[str], list[tuple[str, tuple[int, ...], tuple[int, ...]]]]:
    """Names that are missing, names left over, and (name, expected shape, found shape) where shapes differ."""
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    shapes = [
        (key, tuple(expected[key].shape), tuple(found[key].shape))
        for key in expected
        if key in found and isinstance(found[key], torch.Tensor) and expected[key].shape != found[key].shape
    ]
    return missing, unexpected, shapes


def shorten(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many there are."""
    shown = ", ".join(str(n) for n in names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown
