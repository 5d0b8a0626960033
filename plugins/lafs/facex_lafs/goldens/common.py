"""What the runners share: filling a network, its pictures, the arguments of an architecture, modules' outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex_lafs.networks import FViT, PartFViT
from facex_lafs.standard import StandardCoordinateViT

HEAD_KEY = "loss.weight"
_SHARED = (
    "dim",
    "depth",
    "heads",
    "head_dim",
    "mlp_dim",
    "num_patches",
    "patch_size",
    "pool",
    "dropout",
    "emb_dropout",
)


def official_state(case: Any, salt: str = "", prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a case under their official names (`prefix`: of the three arrays)."""
    refill = case.params.get("refill", {})
    state = {}
    for name, shape, integer in zip(*(case.inputs[f"{prefix}{a}"] for a in ("keys", "shapes", "integer")), strict=True):
        sizes = tuple(int(s) for s in str(shape).split("x") if s)
        value = np.ascontiguousarray(case.filled(str(name), sizes, bool(integer), salt))
        for pattern, factor in refill.get("rescale", {}).items():
            value = value * factor if pattern in str(name) else value
        state[str(name)] = torch.from_numpy(np.asarray(value)).reshape(sizes)
        if str(name) in refill.get("set_to", {}):
            state[str(name)].fill_(refill["set_to"][str(name)])
    return state


def build(arch: Mapping[str, Any]) -> FViT:
    """The network that an `arch` describes, freshly initialised."""
    options = {key: arch[key] for key in _SHARED} | {
        "input_size": arch["image_size"],
        "drop_path": arch["drop_path"],
        "attention_scale": arch["attention_scale"],
    }
    if arch.get("use_standcoord"):
        return StandardCoordinateViT(random_prob=arch["random_prob"], shuffle=arch["shuffle"], **options)
    if arch["with_land"]:
        return PartFViT(landmark_dropout=arch["landmark_dropout"], **options)
    return FViT(**options)


def filled_network(case: Any) -> tuple[FViT, Tensor | None]:
    """The case's network with its weights, strictly, and the class centres [C, D] if it has a head."""
    state = official_state(case, case.params["refill"]["salt"])
    head = state.pop(HEAD_KEY, None)
    network = build(case.params["arch"])
    network.load_state_dict(state, strict=True)
    if list(network.state_dict()) != list(state):
        raise AssertionError("the names are in another order than the official ones")
    return network, head


def pictures(case: Any, key: str = "images") -> Tensor:
    """The case's pictures, float32 [n, 3, size, size], or uint8 of construction `u8`."""
    spec = case.params[key]
    made = case.images(spec["n"], spec["size"], spec["seed"])
    if spec["construction"] == "u8":
        made = np.round((made + 1) * 127.5).astype(np.uint8)
    return torch.from_numpy(made)


def quieten(module: nn.Module) -> None:
    """Every dropout and stochastic depth off."""
    for part in module.modules():
        if hasattr(part, "p") and isinstance(part.p, float):
            part.p = 0.0  # type: ignore[assignment]


@contextmanager
def outputs_of(module: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Collects what the submodules give while the block runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda part, args, output: seen.__setitem__(name, output.detach())

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as arrays, also inside mappings and lists."""
    return {name: _array(value) for name, value in values.items()}


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().numpy()
    if isinstance(value, Mapping):
        return arrays(value)
    if isinstance(value, list):
        return [_array(v) for v in value]
    return value
