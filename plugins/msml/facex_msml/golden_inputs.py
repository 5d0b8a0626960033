"""What the runners of MSML's golden cases share: inputs from a case's words, outputs under the file's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex.heads import Margin, Softmax
from facex_msml.margins import AMArcFace, AMCosFace
from facex_msml.peer import PeerConfig

MARGINS: dict[str, type[Margin]] = {"AMCosFace": AMCosFace, "AMArcFace": AMArcFace}


def noise(spec: Mapping[str, Any]) -> Tensor:
    """{"noise_seed", "shape"} -> float32 tensor."""
    values = np.random.RandomState(spec["noise_seed"]).standard_normal(tuple(spec["shape"])).astype(np.float32)
    return torch.from_numpy(values * np.float32(spec.get("factor", 1.0)))


def pictures(case: Any, spec: Mapping[str, Any]) -> Tensor:
    """{"images", "channels", "rescale", "crop"} -> float32 [n, c, h, w]."""
    x = case.images(*spec["images"])[:, : spec.get("channels", 3)]
    height, width = spec.get("crop", x.shape[2:])
    scale, shift = spec.get("rescale", (1.0, 0.0))
    return torch.from_numpy(np.ascontiguousarray(x[:, :, :height, :width] * np.float32(scale) + np.float32(shift)))


def unpack(case: Any, spec: Mapping[str, Any]) -> Tensor:
    """{"bits": name, "shape"} -> int64 tensor of 0 and 1."""
    shape = tuple(spec["shape"])
    bits = np.unpackbits(case.inputs[spec["bits"]])[: int(np.prod(shape))]
    return torch.from_numpy(bits.reshape(shape).astype(np.int64))


def names(case: Any, key: str) -> list[str]:
    """A list of names in the file."""
    return [str(n) for n in case.inputs[key]]


def filled_state(case: Any) -> dict[str, Tensor]:
    """Every tensor of the official network by its official name, filled and multiplied by its gains."""
    state = {}
    params = case.params
    for name, shape, integer in zip(names(case, "keys"), case.inputs["shapes"], case.inputs["integer"], strict=True):
        sizes = tuple(int(s) for s in str(shape).split("x") if s)
        value = case.filled(name, sizes, bool(integer), params.get("salt", ""))
        for pattern, factor in params.get("gains", []):
            if pattern in name and not integer:
                value = value * np.float32(factor)
        state[name] = torch.from_numpy(np.ascontiguousarray(value)).reshape(sizes)
    return state


def named(**outputs: Any) -> dict[str, Any]:
    """Each output under every name that its reductions have (whole, sliced, fingerprint)."""
    result: dict[str, Any] = {}
    for name, value in outputs.items():
        array = value.detach().numpy() if isinstance(value, Tensor) else value
        result |= {name: array, f"{name}__fp": array, f"{name}_sub": array, f"{name}_f64": array}
    return result


def gradient_rows(module: nn.Module) -> dict[str, np.ndarray | None]:
    """Gradient of every parameter, None where there is none."""
    return {n: None if p.grad is None else p.grad.detach().numpy().copy() for n, p in module.named_parameters()}


def running_rows(module: nn.Module) -> dict[str, np.ndarray]:
    """Running means and variances."""
    return {
        n: b.detach().numpy().copy() for n, b in module.named_buffers() if ".running_" in n or n.startswith("running_")
    }


def peer_config(params: Mapping[str, Any] | None) -> PeerConfig | None:
    """`peer_params` in the words of the published code."""
    if not params or not params["use_ori"]:
        return None
    return PeerConfig(
        use_conv=params["use_conv"],
        mask_trans=params["mask_trans"],
        use_decoder=params.get("use_decoder", False),
        kd_weight=0.0,
        decoder_weight=0.0,
    )


def margin_of(kind: str, options: Mapping[str, Any]) -> Margin:
    """The margin of a head in the words of the published code."""
    return Softmax() if kind == "Softmax" else MARGINS[kind](**{k: options[k] for k in ("s", "m", "a", "k")})
