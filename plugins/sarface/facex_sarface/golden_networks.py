"""Golden cases of the networks: parser, its blocks, policy, recognisers; and the region split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facex.ops import region_mask
from facex_sarface.golden_inputs import (
    arrays,
    fill,
    gradients,
    pictures,
    policy,
    recogniser,
    regions112,
    table,
    with_dropout,
)
from facex_sarface.parser import class_logits, parse, resized
from facex_sarface.policy_network import PolicyNetwork
from facex_sarface.regions import SCHEMES, nearest_index, split, to_input_size
from facex_sarface.swiftformer import SwiftFormerParser
from facex_sarface.swiftformer_blocks import AdditiveAttention, AttentionEncoder, ConvEncoder, LocalRepresentation, Mlp


def face_parser(case: Any) -> SwiftFormerParser:
    """The parser of a case's words, filled."""
    model = case.params["model"]
    parser = SwiftFormerParser(
        model["variant"],
        model["classes"],
        model["encoder_widths"],
        model["encoder_depths"],
        model["decoder_depths"],
        model["mlp_ratio"],
    )
    if model["decoder_widths"] != model["encoder_widths"]:
        raise AssertionError("encoder and decoder have the same widths")
    for module in parser.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = model["bn_eps"], model["bn_momentum"]
    fill(case, parser)
    return parser


def run_parser_eval(case: Any) -> dict[str, Any]:
    """Resized input, the encoder's outputs, logits and labels."""
    parser, x = face_parser(case).eval(), pictures(case)
    size = case.params["resize"]["to"][0]
    with torch.no_grad():
        small = resized(x, size)
        maps, logits = parser.encoder(small), class_logits(parser, x, size, "official")
    result = {f"enc{i}_{part}": found.numpy() for i, found in enumerate(maps) for part in ("stats", "slice")}
    result |= arrays(x128_slice=small, label=parse(parser, x, size))
    return result | arrays(logits_slice=logits, logits_mean=logits, logits_std=logits)


def run_parser_train(case: Any) -> dict[str, Any]:
    """Logits, cross entropy, gradients and running statistics of one pass in training mode."""
    p = case.params
    parser, x = face_parser(case).train(), pictures(case)
    size = p["resize"]["to"][0]
    logits = class_logits(parser, x, size, "official")
    seed = p.get("label_seed", case.inputs.get("label_seed"))
    labels = np.random.RandomState(int(seed)).randint(0, p["model"]["classes"], (len(x), size, size))
    loss = functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    norm = parser.encoder.patch_embed[1]
    result = arrays(
        logits_slice=logits, logits_mean=logits, logits_std=logits, loss=loss, label=logits.argmax(1).byte()
    )
    return result | arrays(bn_mean=norm.running_mean, bn_var=norm.running_var) | table("grad", gradients(parser))


def block(spec: Mapping[str, Any]) -> nn.Module:
    """A block of the parser by its official class and arguments."""
    kind = spec["type"]
    if kind == "ConvEncoder":
        return ConvEncoder(spec["dim"], spec["hidden"], spec["kernel"])
    if kind == "SwiftFormerEncoder":
        return AttentionEncoder(spec["dim"], spec["mlp_ratio"])
    if kind == "SwiftFormerLocalRepresentation":
        return LocalRepresentation(spec["dim"], spec["kernel"])
    if kind == "Mlp":
        return Mlp(spec["in"], spec["hidden"])
    if kind == "EfficientAdditiveAttention" and spec["heads"] == 1:
        return AdditiveAttention(spec["in"], spec["token_dim"])
    raise AssertionError(f"there is no block {dict(spec)}")


def run_parser_blocks(case: Any) -> dict[str, Any]:
    """Each block in each mode: output, and gradient of sum(y * linspace) for the input."""
    result: dict[str, Any] = {}
    for name, spec in case.params["blocks"].items():
        given = f"{name}_value_"
        values = {key.removeprefix(given): v for key, v in case.inputs.items() if key.startswith(given)}
        for mode in case.params["modes"]:
            module = fill(case, block(spec), f"{name}_", values).train(mode == "train")
            x = torch.from_numpy(case.inputs["x"]).requires_grad_()
            y = module(x.permute(0, 2, 3, 1).flatten(1, 2) if isinstance(module, AdditiveAttention) else x)
            (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
            result |= arrays(**{f"{name}_{mode}_y": y, f"{name}_{mode}_gx": x.grad})
    return result


def run_region_split(case: Any) -> dict[str, Any]:
    """Both splits, the ids at the recogniser's size, and the regions' areas there."""
    p, result = case.params, dict[str, Any]()
    source = 128
    for name in p["sets"]:
        labels = torch.from_numpy(case.inputs[f"{name}_label"])
        ids = split(labels.to(torch.uint8), SCHEMES["sar24"])
        legacy = split(labels.to(torch.uint8), SCHEMES["legacy23"])
        result |= arrays(**{f"{name}_region": ids, f"{name}_legacy": legacy})
        small = to_input_size(ids, p["resize_to"])
        keep = torch.ones(len(ids), p["regions"])
        areas = region_mask(torch.zeros(len(ids), 1, *small.shape[1:]), small, keep)[1]
        result |= arrays(**{f"{name}_region112": small, f"{name}_area112": areas})
    return result | arrays(nearest_index=nearest_index(source, p["resize_to"]))


def run_policy(case: Any) -> dict[str, Any]:
    """Probabilities and gradients by the look-up that training uses; the state's gradient over the masks themselves."""
    network, x, ids = _policy(case), pictures(case), regions112(case)
    embedded = network.embedded(x, ids)
    features = network.features(embedded)
    probabilities = torch.sigmoid(network.fc(features))
    (probabilities * torch.from_numpy(case.inputs["w"])).sum().backward()
    result = arrays(region112=ids, feat32=features, probs=probabilities) | table("grad", gradients(network))
    result |= _policy_statistics(network)
    masks = functional.one_hot(ids.long(), network.regions).permute(0, 3, 1, 2).float()
    state, second = torch.cat([x, masks], 1).requires_grad_(), _policy(case)
    again = torch.sigmoid(second.decide(second.embedded_state(state)))
    (again * torch.from_numpy(case.inputs["w"])).sum().backward()
    return result | arrays(gstate_stats=state.grad, gstate_slice=state.grad)


def _policy(case: Any) -> PolicyNetwork:
    network = policy(case.params["policy"])
    fill(case, network).train(case.params["mode"] == "train")
    return network


def _policy_statistics(network: PolicyNetwork) -> dict[str, Any]:
    first, last = network.feature_extractor[0], network.get_submodule("feature_extractor.6.1.bn2")
    return arrays(
        bn1_mean=first.running_mean,
        bn1_var=first.running_var,
        last_bn_mean=last.running_mean,
        last_bn_var=last.running_var,
    )


def run_backbone_eval(case: Any) -> dict[str, Any]:
    """Stem, some blocks, unit embedding and norm of a recogniser."""
    p = case.params
    network = recogniser(p["model"])
    fill(case, network).eval()
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: seen.__setitem__(name, output.detach())

    network.input_layer.register_forward_hook(keep("stem"))
    for i in p["blocks"]:
        network.body[i].register_forward_hook(keep(f"block{i}"))
    with torch.no_grad():
        emb, norm = network.unit_and_norm(pictures(case))
    result = {f"{name}_{part}": found.numpy() for name, found in seen.items() for part in ("stats", "slice")}
    return result | arrays(emb=emb, norm=norm)


def run_backbone_train(case: Any) -> dict[str, Any]:
    """One forward and backward pass in training mode."""
    p = case.params
    network = recogniser(p["model"])
    fill(case, network).train()
    with_dropout(case, network, p["model"])
    x = pictures(case).requires_grad_()
    emb, norm = network.unit_and_norm(x)
    ((emb * torch.from_numpy(case.inputs["w"])).sum() + p["norm_weight"] * norm.sum()).backward()
    result = arrays(emb=emb, norm=norm, gx_stats=x.grad, gx_slice=x.grad) | table("grad", gradients(network))
    first, last = network.input_layer[1], network.output_layer[4]
    running = {"bn_mean": first.running_mean, "bn_var": first.running_var}
    return result | arrays(**running, out_bn_mean=last.running_mean, out_bn_var=last.running_var)


KINDS = {
    "sarface/parser_eval": run_parser_eval,
    "sarface/parser_train": run_parser_train,
    "sarface/parser_blocks": run_parser_blocks,
    "sarface/region_split": run_region_split,
    "sarface/policy_eval": run_policy,
    "sarface/policy_train": run_policy,
    "sarface/backbone_eval": run_backbone_eval,
    "sarface/backbone_train": run_backbone_train,
}
