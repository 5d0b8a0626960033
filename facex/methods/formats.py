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
    """The network's own state dict and nothing else. `keys` are the network's names."""
    return prefixed_format(name, network, keys, "", describe=describe)


def prefixed_format(
    name: str,
    network: str,
    keys: Sequence[str],
    prefix: str,
    head_key: str | None = None,
    head_layout: HeadLayout = "CD",
    describe: str = "",
) -> Format:
    """Every name of the network under `prefix`, plus class centres under `head_key` (stored [C, D] or [D, C]).

    Recognised when the head's key, or at least half of the network's names, are there under the prefix. Reading takes
    everything under the prefix as the network's: what is missing or left over is found when it is loaded, strictly.
    """
    own = [prefix + key for key in keys]

    def recognise(state: dict[str, Any]) -> bool:
        if head_key is not None and head_key in state:
            return True
        return 2 * sum(key in state for key in own) >= len(own)

    def read(state: dict[str, Any]) -> dict[str, Any]:
        inside = {
            key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix) and key != head_key
        }
        outside = [key for key in state if not key.startswith(prefix) and key != head_key]
        if outside:
            raise CheckpointError(f"{name}: keys that do not belong to this layout: {shorten(outside)}")
        head = state.get(head_key) if head_key is not None else None
        if head is not None and head_layout == "DC":
            head = head.T.contiguous()
        return {"networks": {network: inside}, "head": head, "meta": {}}

    def write(content: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {prefix + key: value for key, value in content["networks"][network].items()}
        head: Tensor | None = content.get("head")
        if head_key is not None:
            if head is None:
                raise CheckpointError(f"{name} holds class centres ({head_key}), but there are none to write")
            state[head_key] = head.T.contiguous() if head_layout == "DC" else head
        return state

    return Format(name, recognise, read, write, describe)


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
