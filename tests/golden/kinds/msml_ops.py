"""Goldens of the mask's arithmetic: the compiled operator and its plain PyTorch reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.ops import mask_aggregate
from tests.golden.case import Case, Variant

IMPLEMENTATIONS = ("fused", "reference")


def noise(spec: dict[str, Any], params: dict[str, Any]) -> Tensor:
    """The input that `{"noise_seed": s, "factor": f}` stands for."""
    values = np.random.RandomState(spec["noise_seed"]).standard_normal(params["shape"]).astype(np.float32)
    return torch.from_numpy(values * np.float32(spec.get("factor", 1.0))).to(getattr(torch, params["dtype"]))


def run_fm_arithmetic(case: Case) -> list[Variant]:
    """Every activation with every arithmetic, through both implementations."""
    variants = []
    for impl in IMPLEMENTATIONS:
        outputs: dict[str, Any] = {}
        for activation in case.params["activations"]:
            for arith in case.params["ariths"]:
                values = _values(case.params, activation, arith, impl)
                outputs |= {f"{activation}_{arith}_{name}": value for name, value in values.items()}
        variants.append(Variant(outputs, impl))
    return variants


def _values(params: dict[str, Any], activation: str, arith: str, impl: str) -> dict[str, np.ndarray]:
    y, a, g = (noise(params[name], params) for name in ("y", "a", "g"))
    if (activation, arith) == ("tanh", "div"):
        shift = params.get("tanh_div_shift", 0.0)
        a = a + torch.where(a >= 0, shift, -shift).to(a.dtype)
    leaves = y.requires_grad_(), a.requires_grad_()
    z = mask_aggregate(*leaves, activation=activation, arith=arith, skip=params["skip"], impl=impl)
    dy, da = torch.autograd.grad(z, leaves, g)
    return {name: value.detach().numpy() for name, value in (("z", z), ("dy", dy), ("da", da))}


KINDS = {"msml/fm_arithmetic": run_fm_arithmetic}
