"""magface/backbone_eval, backbone_train, backbone_train_vit: official networks under filled weights, against ours."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex.models import backbone_names, create_backbone, get_backbone
from facex.models.vit import Draws
from tests.golden.case import Case

# How a constructor argument of an official code is called here.
OPTIONS = {
    "embedding_size": "embedding_size",
    "input_size": "input_size",
    "img_size": "input_size",
    "bn_momentum": "bn_momentum",
    "bn_eps": "bn_eps",
    "dropout": "dropout",
    "dropout2d": "dropout",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "drop_path_rate": "drop_path_rate",
    "mask_ratio": "mask_ratio",
    "gradient_checkpointing": "activation_checkpointing",
    "blocks": "blocks",
    "scale": "scale",
}


def registered(params: dict[str, Any]) -> str:
    """The case's architecture; where that is none of our names, one of its family that the constructor's arguments change."""
    constructor, name = params["constructor"], str(params["architecture"])
    if name in backbone_names():
        return name
    if constructor["family"] == "iresnet":
        return f"{'r' if constructor['impl'] == 'insightface' else 'iresnet'}{constructor['depth']}"
    if constructor["family"] == "ir":
        layers = {100: 101}.get(constructor["num_layers"], constructor["num_layers"])
        return f"{constructor['mode']}_{layers}"
    return {"vit": "vit_t", "mobilefacenet": "mbf"}[constructor["family"]]


def create(params: dict[str, Any]) -> nn.Module:
    """The registry's backbone of a case, with the official constructor's arguments."""
    constructor = params["constructor"]
    name = registered(params)
    known = inspect.signature(get_backbone(name).build).parameters
    given = {OPTIONS[k]: v for k, v in constructor.items() if k in OPTIONS}
    options = {k: v for k, v in given.items() if k in known}
    if params.get("token_mask"):
        options["official_masking"] = constructor["mask_ratio"] != params["token_mask"]["effective_mask_ratio"]
    return create_backbone(name, **options)


def build(case: Case) -> nn.Module:
    """The registry's backbone of the case, with the file's names checked and every entry filled."""
    p = case.params
    constructor = p["constructor"]
    backbone = create(p)
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


def returned(backbone: nn.Module, x: Tensor, case: Case, *draws: Any) -> tuple[Tensor, Tensor]:
    """What the official network returns, and the norm: [n, 1] as its second value, or [n] of a raw embedding."""
    if "norm" in str(case.params.get("returns", "")).split("embedding")[-1]:
        return backbone.unit_and_norm(x)  # type: ignore[operator]
    output = backbone(x, *draws)
    return output, output.norm(dim=1)


def run_eval(case: Case) -> dict[str, np.ndarray]:
    """Embedding, norm, parameter count, and a fingerprint of each named submodule's output."""
    backbone = build(case).eval()
    seen: dict[str, Tensor] = {}

    def keep(stage: str) -> Any:
        return lambda module, args, output: seen.__setitem__(stage, output.detach())

    hooks = [backbone.get_submodule(s).register_forward_hook(keep(s)) for s in case.params.get("stages", [])]
    with torch.no_grad():
        output, norm = returned(backbone, pictures(case), case)
    for hook in hooks:
        hook.remove()
    result = {
        "output": output.numpy(),
        "norm": norm.numpy(),
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
        stored = StoredMask(case.inputs["dropout_mask"], float(case.params["dropout"]["p"]))
        if hasattr(backbone, "output_layer"):
            backbone.output_layer[1] = stored  # type: ignore[index,operator]
        else:
            backbone.dropout = stored
    return forward_and_back(backbone, case)


def run_train_vit(case: Case) -> dict[str, np.ndarray]:
    """The same for a vision transformer, with the recorded masking and stochastic depth."""
    backbone = build(case).train()
    fresh = backbone.draw(1, torch.device("cpu"))  # type: ignore[operator]
    noise, keep = (case.inputs.get(name) for name in ("mask_noise", "keep"))
    draws = Draws(*(None if a is None else torch.from_numpy(a).float() for a in (noise, keep)))
    for name, own, given in zip(Draws._fields, fresh, draws, strict=True):
        if (own is None) != (given is None):
            raise AssertionError(f"the network and the case disagree on the draw {name!r}")
    if keep is not None and len(keep) != len(fresh.keep):
        raise AssertionError(f"{len(fresh.keep)} branches may be dropped, the case has {len(keep)}")
    mask = case.params.get("token_mask")
    if mask and mask["kept"] != backbone.kept_tokens:
        raise AssertionError(f"{backbone.kept_tokens} tokens kept, the case keeps {mask['kept']}")
    return forward_and_back(backbone, case, draws)


def forward_and_back(backbone: nn.Module, case: Case, *draws: Any) -> dict[str, np.ndarray]:
    """Outputs, gradient norms, input gradient and buffers after one pass over the case's loss sum(output * probe)."""
    x = pictures(case).requires_grad_()
    output, norm = returned(backbone, x, case, *draws)
    (output * torch.from_numpy(case.inputs["probe"])).sum().backward()
    parameters = dict(backbone.named_parameters())
    names = [str(n) for n in case.inputs["grad_names"]]
    with_gradient = sorted(n for n, q in parameters.items() if q.grad is not None)
    if sorted(names) != with_gradient:
        raise AssertionError(f"parameters with gradient differ: {sorted(set(names) ^ set(with_gradient))[:6]}")
    buffers = dict(backbone.named_buffers())
    counters = [b for n, b in buffers.items() if n.endswith("num_batches_tracked")]
    assert x.grad is not None
    result = {
        "output": output.detach().numpy(),
        "norm": norm.detach().numpy(),
        "grad_norms": np.array([gradient_norm(parameters[n]) for n in names], np.float32),
        "grad_input_pooled": nn.functional.avg_pool2d(x.grad, 8).numpy(),
    }
    if "running_names" in case.inputs:
        norms = [buffers[str(n)].double().norm().item() for n in case.inputs["running_names"]]
        result["running_after_norms"] = np.array(norms, np.float32)
    if counters:
        result["num_batches_tracked"] = counters[0].reshape(1).numpy()
    return result | {f"after__{n}": b.numpy() for n, b in buffers.items() if ".running_" in n}


def gradient_norm(parameter: nn.Parameter) -> float:
    """L2 norm of a parameter's gradient, in float64."""
    assert parameter.grad is not None
    return float(parameter.grad.double().norm())


KINDS = {
    "magface/backbone_eval": run_eval,
    "magface/backbone_train": run_train,
    "magface/backbone_train_vit": run_train_vit,
}
