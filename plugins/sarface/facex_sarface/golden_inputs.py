"""What the runners of SARFace's golden cases share: weights and pictures from a case's words, tables by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex.models import create_backbone
from facex.models.ir import IR
from facex_sarface.policy_network import PolicyNetwork
from facex_sarface.regions import SCHEMES, split, to_input_size


def fill(case: Any, module: nn.Module, prefix: str = "", changed: Mapping[str, np.ndarray] | None = None) -> nn.Module:
    """Every entry of the state dict by the case's rule, under the official names and in their order; `changed` instead of it."""
    state = {}
    rows = (case.inputs[f"{prefix}{part}"] for part in ("keys", "shapes", "integer"))
    for key, shape, integer in zip(*rows, strict=True):
        name, sizes = str(key), tuple(int(s) for s in str(shape).split("x") if s)
        value = (changed or {}).get(name)
        if value is None:
            value = case.filled(name, sizes, bool(integer), salt(case))
        state[name] = torch.from_numpy(np.ascontiguousarray(value)).reshape(sizes)
    own = list(module.state_dict())
    if list(state) != own:
        raise AssertionError(f"names differ, or their order: {sorted(set(own) ^ set(state))[:6]}")
    module.load_state_dict(state, strict=True)
    return module


def salt(case: Any) -> str:
    """What stands in front of every name that is filled."""
    return str(case.params.get("salt", ""))


def pictures(case: Any) -> Tensor:
    """The case's pictures as the normalised BGR input: float32 [n, 3, size, size]."""
    spec = case.params["images"]
    return torch.from_numpy(case.images(spec["count"], spec["size"], spec["seed"]))


def byte_pictures(case: Any) -> np.ndarray:
    """The case's pictures as uint8 [n, size, size, 3], channels as they are."""
    return np.ascontiguousarray(np.round((pictures(case).permute(0, 2, 3, 1).numpy() + 1) * 127.5).astype(np.uint8))


def regions112(case: Any) -> Tensor:
    """Region ids uint8 [n, 112, 112] of the case's label maps."""
    labels = torch.from_numpy(case.inputs[str(case.params["labels"])])
    return to_input_size(split(labels, SCHEMES["sar24"]))


def recogniser(spec: Mapping[str, Any]) -> IR:
    """The recogniser of a case's words."""
    options = {name: spec[name] for name in ("bn_eps", "bn_momentum") if name in spec}
    if "dropout" in spec:
        options["dropout"] = spec["dropout"]["p"]
    made = create_backbone(
        str(spec["arch"]),
        embedding_size=spec.get("embedding", 512),
        input_size=spec.get("input_size", 112),
        blocks=spec.get("units"),
        **options,
    )
    assert isinstance(made, IR)
    return made


def policy(spec: Mapping[str, Any]) -> PolicyNetwork:
    """The policy of a case's words."""
    made = PolicyNetwork(spec["actions"], spec["in_channels"] - 3)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = spec["bn_eps"], spec["bn_momentum"]
    return made


class RecordedDropout(nn.Module):
    """The recorded draw in a dropout's place."""

    def __init__(self, keep: np.ndarray, p: float) -> None:
        super().__init__()
        self.keep, self.p = torch.from_numpy(keep.astype(np.float32)), p

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, H, W] -> the same shape."""
        return x * self.keep.view_as(x) / (1 - self.p)


def with_dropout(case: Any, network: IR, spec: Mapping[str, Any]) -> IR:
    """The network with the dropout of the case: p 0, or the recorded mask (packed bits, a row a picture)."""
    dropout = spec.get("dropout", {"p": 0.0})
    packed = case.inputs.get(str(dropout.get("keep", "dropout_keep")))
    if packed is not None and packed.size and dropout["p"]:
        inputs = network.output_layer[3].in_features
        network.output_layer[1] = RecordedDropout(np.unpackbits(packed, axis=1)[:, :inputs], dropout["p"])
    return network


def gradients(module: nn.Module, prefix: str = "") -> dict[str, np.ndarray | None]:
    """Gradient of every parameter in order, None where there is none."""
    return {
        prefix + name: None if p.grad is None else p.grad.detach().numpy().copy()
        for name, p in module.named_parameters()
    }


def table(name: str, rows: Mapping[str, np.ndarray | None]) -> dict[str, Any]:
    """A table of a row a parameter under the names of its columns."""
    prefix = f"{name}_" if name else ""
    return {f"{prefix}{column}": rows for column in ("names", "norm", "mean", "head", "present")}


def arrays(**values: Any) -> dict[str, Any]:
    """Tensors as arrays."""
    return {n: v.detach().numpy().copy() if isinstance(v, Tensor) else v for n, v in values.items()}
