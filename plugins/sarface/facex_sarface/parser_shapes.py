"""What a parser's tensors tell about its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from facex_sarface.regions import LABELS
from facex_sarface.swiftformer import MLP_RATIO, PATCH, VARIANTS

STAGES = 4


def parser_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Arguments of `FaceParser` for a parser's own file: `variant`, and `options` where it is none of the named ones.

    None for a file that is no SwiftFormer parser of 19 classes.
    """
    shape = parser_shape(state)
    if shape is None or shape["classes"] != len(LABELS):
        return None
    for name, (widths, depths) in VARIANTS.items():
        if shape == {"classes": len(LABELS), "widths": widths, "depths": depths, "decoder_depths": depths}:
            return {"variant": name}
    return {"options": {name: _plain(value) for name, value in shape.items() if name != "classes"}}


def parser_shape(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Arguments of SwiftFormerParser: classes, widths, depths, decoder_depths (fine to coarse), and mlp_ratio where it is
    not 4. None for other names than a parser's."""
    if not all(key.startswith(("encoder.", "decoder.")) for key in state):
        return None
    norms = [state.get(f"encoder.norm{2 * i}.weight") for i in range(STAGES)]
    last = state.get(f"decoder.network.{2 * STAGES - 1}.0.bias")
    if last is None or any(norm is None for norm in norms):
        return None
    widths = tuple(len(norm) for norm in norms if norm is not None)
    shape: dict[str, Any] = {"classes": len(last) // PATCH**2, "widths": widths}
    shape["depths"] = tuple(_blocks(state, f"encoder.network.{2 * i}.") for i in range(STAGES))
    shape["decoder_depths"] = tuple(_blocks(state, f"decoder.network.{2 * i}.") for i in reversed(range(STAGES)))
    hidden = state.get(f"encoder.network.0.{shape['depths'][0] - 1}.linear.fc1.weight")
    if hidden is not None and len(hidden) != MLP_RATIO * widths[0]:
        shape["mlp_ratio"] = len(hidden) / widths[0]
    return shape


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks a stage has."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
