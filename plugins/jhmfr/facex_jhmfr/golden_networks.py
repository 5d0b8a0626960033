"""Golden cases of the networks: their parts, whole backbones, the masked autoencoder, fresh weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex.models import create_backbone
from facex_jhmfr.block import Block, Residual, residual_scale
from facex_jhmfr.facet import FaceT
from facex_jhmfr.mae import MaskedAutoencoder, masked_pictures
from facex_jhmfr.patches import PatchEmbed, patchify, sincos_positions
from facex_jhmfr.prompts_pool import PromptsPool

RESIDUAL: dict[str, Residual] = {"deepnorm": "deepnorm", "prenorm": "prenorm", "postnorm": "res_post_norm"}
POSITIONS = {"learn": "learned", "cosine": "sincos"}
# The official constructor's names -> ours; what is not here is checked to be the only value that can be.
FACET = {
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "patch_size": "patch_size",
    "num_classes": "embedding_size",
    "img_size": "input_size",
    "n_prompt_layer": "prompt_layers",
    "prompt_tokens": "prompt_tokens",
    "pool": "pool",
    "classification": "class_head",
    "drop_path_rate": "drop_path_rate",
    "qkv_bias": "qkv_bias",
    "drop_rate": "drop_rate",
    "attn_drop_rate": "attention_drop_rate",
}


def facet_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """FaceT's arguments for official ones."""
    options = {ours: args[official] for official, ours in FACET.items() if official in args}
    options["residual"] = RESIDUAL[args["ntype"]]
    options["positions"] = POSITIONS[args["pos_embed"]]
    return {**options, "allow_unused_prompts": True}


def facet(args: Mapping[str, Any]) -> FaceT:
    """The FaceT of official constructor arguments."""
    return FaceT(**facet_arguments(args))


def mae(model: Mapping[str, Any]) -> MaskedAutoencoder:
    """The autoencoder of an official encoder, decoder width and masking ratio."""
    decoder = model["decoder"]["args"]
    return MaskedAutoencoder(
        facet(model["encoder"]["args"]),
        decoder_dim=model["args"]["decoder_dim"],
        decoder_depth=decoder["depth"],
        decoder_heads=decoder["num_heads"],
        decoder_mlp_ratio=decoder["mlp_ratio"],
        mask_ratio=model["args"]["masking_ratio"],
    )


def iresnet_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """IResNet's arguments for official ones; the form is insightface's."""
    options = {"blocks": args["layers"], "embedding_size": args["num_features"], "input_size": args["img_size"]}
    return {**options, **{k: args[k] for k in ("bn_eps", "bn_momentum", "dropout")}}


def iresnet(args: Mapping[str, Any]) -> nn.Module:
    """The IResNet of official constructor arguments."""
    return create_backbone("r50", **iresnet_arguments(args))


def network(model: Mapping[str, Any]) -> nn.Module:
    """The network of a case's `model`."""
    if model["arch"] == "mae":
        return mae(model)
    return {"facet": facet, "iresnet": iresnet}[model["arch"]](model["args"])


def fill(case: Any, module: nn.Module, rule: Mapping[str, Any]) -> nn.Module:
    """Every entry of the state dict from the case's rule, under the official names, strictly."""
    import re

    integer = case.inputs.get(str(rule["integer"]))
    state = {}
    for i, (key, shape) in enumerate(zip(case.inputs[rule["keys"]], case.inputs[rule["shapes"]], strict=True)):
        name, sizes = str(key), tuple(int(s) for s in str(shape).split("x") if s)
        whole = name.endswith("num_batches_tracked") if integer is None else bool(integer[i])
        value = case.filled(name, sizes, whole, rule["salt"])
        for pattern, factor in rule["rescale"]:
            if re.fullmatch(pattern, name):
                value = value * np.float32(factor)
                break
        state[name] = torch.from_numpy(np.ascontiguousarray(value)).reshape(sizes)
    names = list(module.state_dict())
    if list(state) != names:
        raise AssertionError(f"names differ, or their order: {sorted(set(names) ^ set(state))[:6]}")
    module.load_state_dict(state, strict=True)
    return module


def pictures(case: Any, spec: Mapping[str, Any]) -> Tensor:
    """The images of a rule: float32 [n, 3, size, size]."""
    return torch.from_numpy(case.images(spec["n"], spec["size"], spec["seed"]))


def gradients(module: nn.Module) -> dict[str, np.ndarray]:
    """Gradient of every parameter that has one."""
    return {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}


def run_block(case: Any) -> dict[str, Any]:
    """One transformer block, forward and backward."""
    p = case.params
    residual = RESIDUAL[p["ntype"]]
    depth = p["depth_for_alpha"] or 1
    scale, inner = residual_scale(residual, depth), int(p["dim"] * p["mlp_ratio"])
    block = Block(p["dim"], p["num_heads"], inner, residual, scale, p["drop_path"], p["qkv_bias"])
    fill(case, block, p["fill"]).train(p["mode"] == "train")
    x = torch.from_numpy(case.inputs["x"]).requires_grad_()
    y = block(x, u=torch.from_numpy(case.inputs["u"]).float() if len(case.inputs["u"]) else None)
    (y * torch.from_numpy(case.inputs["R"])).sum().backward()
    return {"y": y.detach().numpy(), "gx": x.grad.numpy(), "grad_fp": gradients(block)}  # type: ignore[union-attr]


def run_prompts_pool(case: Any) -> dict[str, Any]:
    """Prompt pooling, forward and backward."""
    p = case.params
    pool = PromptsPool(p["in_features"], p["num_heads"], p["num_tokens"])
    fill(case, pool, p["fill"])
    x = torch.from_numpy(case.inputs["x"]).requires_grad_()
    out = pool(x, torch.from_numpy(case.inputs["y"]).long())
    (out * torch.from_numpy(case.inputs["R"])).sum().backward()
    assert x.grad is not None
    grads = gradients(pool)
    names = {"g_tokens": "tokens", "g_fc_w": "fc.weight", "g_fc_b": "fc.bias"}
    return {"out": out.detach().numpy(), "gx": x.grad.numpy(), **{k: grads[n] for k, n in names.items()}}


def run_patch_embed(case: Any) -> dict[str, Any]:
    """Patches and tokens of a picture."""
    p = case.params
    embed = PatchEmbed(p["patch_size"], p["embed_dim"])
    fill(case, embed, p["fill"])
    x = pictures(case, p["images"])
    with torch.no_grad():
        return {"patches": patchify(x, p["patch_size"]).numpy(), "out": embed(x).numpy()}


def run_sincos(case: Any) -> dict[str, Any]:
    """The table of positions; an official grid is (columns, rows): its first number divides the patch's number."""
    p = case.params
    if p["prefix_tokens"]:
        raise AssertionError("FaceT has no tokens before those of the patches")
    columns, rows = p["grid"]
    table = sincos_positions((rows, columns), p["dim"], p["temperature"]).numpy()
    return {"pe": table, "fp": table, "shape": np.array(table.shape)}


def run_backbone(case: Any) -> dict[str, Any]:
    """A backbone's embedding, what its blocks return, gradients and buffers."""
    p = case.params
    net = fill(case, network(p["model"]), p["fill"]).train(p["mode"] == "train")
    x = pictures(case, p["images"]).requires_grad_(bool(p.get("gradients")))
    buffers = {n: b.clone() for n, b in net.named_buffers()}
    more: dict[str, Any] = {}
    inputs: tuple[Any, ...] = ()
    if p["model"]["arch"] == "facet":
        u = case.inputs["u"]
        inputs = (torch.tensor(p["flags"]), torch.from_numpy(u).float() if len(u) else None)
        with torch.no_grad():
            more["block_fp"] = [b.numpy() for b in net.block_outputs(x, *inputs)]  # type: ignore[operator]
    emb = net(x, *inputs)
    result = {"emb": emb.detach().numpy(), **more}
    if p.get("gradients"):
        (emb * torch.from_numpy(case.inputs["R"])).sum().backward()
        result |= {"gx_fp": x.grad.numpy(), "gx": x.grad.numpy(), "grad_fp": gradients(net)}  # type: ignore[union-attr]
        result["none_grad"] = [n for n, q in net.named_parameters() if q.grad is None]
    result["buf_fp"] = {n: b.numpy() for n, b in net.named_buffers() if n in net.state_dict() and b.is_floating_point()}
    if p["mode"] == "eval" and any(not torch.equal(b, buffers[n]) for n, b in net.named_buffers()):
        raise AssertionError("evaluation changed a buffer")
    return result


def run_mae(case: Any) -> dict[str, Any]:
    """One pass of the autoencoder, forward and backward."""
    p = case.params
    net = fill(case, network(p["model"]), p["fill"]).train()
    x = pictures(case, p["images"]).requires_grad_()
    loss, predictions, masked = net(x, torch.from_numpy(case.inputs[p["noise"]]))
    loss.mean().backward()
    found = predictions.detach().numpy()
    return {
        **{name: found for name in ("pred_head", "pred_token_mean", "pred_token_std", "pred_fp")},
        "loss": loss.mean().detach().numpy(),
        "masked_indices": masked.numpy(),
        "gx_fp": x.grad.numpy(),  # type: ignore[union-attr]
        "grad_fp": gradients(net),
        "none_grad": [n for n, q in net.named_parameters() if q.grad is None],
    }


def run_visualisation(case: Any) -> dict[str, Any]:
    """The pictures with holes, and with predictions in them."""
    p = case.params
    rule = p["prediction"]
    drawn = np.random.RandomState(rule["seed"]).standard_normal(tuple(rule["shape"])).astype(np.float32)
    predictions = torch.from_numpy(drawn * np.float32(rule["scale"]))
    masked = torch.from_numpy(case.inputs["masked_indices"]).long()
    hidden, filled = masked_pictures(pictures(case, p["images"]), predictions, masked, p["patch_size"])
    return {"crap_fp": hidden.numpy(), "crap0": hidden.numpy(), "rec_fp": filled.numpy(), "rec0": filled.numpy()}


def run_init(case: Any) -> dict[str, Any]:
    """Fresh weights of a network, by name."""
    torch.manual_seed(case.params["official_seed"])
    net = network(case.params["model"])
    parameters = dict(net.named_parameters())
    return {
        "names": list(parameters),
        "numel": np.array([q.numel() for q in parameters.values()]),
        "st": {n: q.detach().numpy() for n, q in parameters.items()},
        "requires_grad": np.array([q.requires_grad for q in parameters.values()]),
    }


KINDS = {
    "jhmfr/block": run_block,
    "jhmfr/prompts_pool": run_prompts_pool,
    "jhmfr/patch_embed": run_patch_embed,
    "jhmfr/sincos_position": run_sincos,
    "jhmfr/backbone_eval": run_backbone,
    "jhmfr/backbone_train": run_backbone,
    "jhmfr/mae": run_mae,
    "jhmfr/mae_visualisation": run_visualisation,
    "jhmfr/init_stats": run_init,
}
