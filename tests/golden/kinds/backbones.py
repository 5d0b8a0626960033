"""magface/backbone_eval and magface/backbone_train: official networks under filled weights, against the registry's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex.models import create_backbone
from tests.golden.case import Case


def build(case: Case) -> nn.Module:
    """The registry's backbone of the case, with the file's names checked and every entry filled."""
    p = case.params
    constructor = p["constructor"]
    options: dict[str, Any] = {
        k: constructor[k] for k in ("embedding_size", "input_size", "bn_momentum", "bn_eps") if k in constructor
    }
    dropout = constructor.get("dropout2d", constructor.get("dropout"))
    if dropout is not None:
        options["dropout"] = dropout
    backbone = create_backbone(p["architecture"], **options)
    state = backbone.state_dict()
    names = [str(k) for k in case.inputs["keys"]]
    if sorted(names) != sorted(state):
        raise AssertionError(f"names differ: {sorted(set(names) ^ set(state))[:6]}")
    gain = np.float32(case.inputs.get("gain", p.get("gain", 1.0)))
    filled = {}
    for name, shape, integer in zip(names, case.inputs["shapes"], case.inputs["integer"], strict=True):
        sizes = tuple(int(s) for s in str(shape).split("x") if s)
        value = case.filled(name, sizes, bool(integer), p.get("salt", ""))
        if value.ndim <= 1 and not integer and (name == "weight" or name.endswith(".weight")):
            value = value * gain
        filled[name] = torch.from_numpy(np.ascontiguousarray(value)).reshape(sizes)
    backbone.load_state_dict(filled, strict=True)
    frozen = sorted(n for n, q in backbone.named_parameters() if not q.requires_grad)
    if frozen != sorted(constructor.get("frozen", [])):
        raise AssertionError(f"parameters without gradient: {frozen}, official {constructor.get('frozen', [])}")
    return backbone


def pictures(case: Case) -> Tensor:
    """The case's input images, float32 [n, 3, size, size]."""
    spec = case.params["images"]
    return torch.from_numpy(case.images(spec["n"], spec["size"], spec["seed"]))


def run_eval(case: Case) -> dict[str, np.ndarray]:
    """Embedding, norm, parameter count, and a fingerprint of each named submodule's output."""
    backbone = build(case).eval()
    seen: dict[str, Tensor] = {}

    def keep(stage: str) -> Any:
        return lambda module, args, output: seen.__setitem__(stage, output.detach())

    hooks = [backbone.get_submodule(s).register_forward_hook(keep(s)) for s in case.params.get("stages", [])]
    with torch.no_grad():
        output = backbone(pictures(case))
    for hook in hooks:
        hook.remove()
    result = {
        "output": output.numpy(),
        "norm": output.norm(dim=1).numpy(),
        "n_params": np.int64(sum(q.numel() for q in backbone.parameters())),
    }
    for stage, value in seen.items():
        pooled = value.mean((2, 3)) if value.ndim == 4 else value.mean(1) if value.ndim == 3 else value
        result[f"stage__{stage}__pooled"] = pooled.numpy()
        result[f"stage__{stage}__meanstd"] = torch.stack([value.mean(), value.std(), value.abs().max()]).numpy()
    return result


class StoredMask(nn.Module):
    """The recorded draw of a dropout in its place; `per` channel or element."""

    def __init__(self, mask: np.ndarray, p: float) -> None:
        super().__init__()
        self.mask = torch.from_numpy(mask.astype(np.float32)) / (1 - p)

    def forward(self, x: Tensor) -> Tensor:
        """The masked map."""
        mask = self.mask
        if x.ndim == 4 and mask.ndim == 2 and mask.shape[1] == x.shape[1]:
            return x * mask[:, :, None, None]
        return x * mask.reshape(x.shape)


def run_train(case: Case) -> dict[str, np.ndarray]:
    """One forward and backward pass in training mode."""
    backbone = build(case).train()
    if "dropout_mask" in case.inputs:
        backbone.dropout = StoredMask(case.inputs["dropout_mask"], float(case.params["dropout"]["p"]))
    x = pictures(case).requires_grad_()
    output = backbone(x)
    (output * torch.from_numpy(case.inputs["probe"])).sum().backward()
    parameters = dict(backbone.named_parameters())
    names = [str(n) for n in case.inputs["grad_names"]]
    with_gradient = sorted(n for n, q in parameters.items() if q.grad is not None)
    if sorted(names) != with_gradient:
        raise AssertionError(f"parameters with gradient differ: {sorted(set(names) ^ set(with_gradient))[:6]}")
    buffers = dict(backbone.named_buffers())
    counters = [b for n, b in buffers.items() if n.endswith("num_batches_tracked")]
    result = {
        "output": output.detach().numpy(),
        "grad_norms": np.array([gradient_norm(parameters[n]) for n in names], np.float32),
        "grad_input_pooled": nn.functional.avg_pool2d(x.grad, 8).numpy(),
    }
    if "running_names" in case.inputs:
        norms = [buffers[str(n)].double().norm().item() for n in case.inputs["running_names"]]
        result["running_after_norms"] = np.array(norms, np.float32)
    if counters:
        result["num_batches_tracked"] = counters[0].reshape(1).numpy()
    result |= {f"after__{n}": b.numpy() for n, b in buffers.items() if ".running_" in n}
    return result


def gradient_norm(parameter: nn.Parameter) -> float:
    """L2 norm of a parameter's gradient, in float64."""
    assert parameter.grad is not None
    return float(parameter.grad.double().norm())


KINDS = {"magface/backbone_eval": run_eval, "magface/backbone_train": run_train}
