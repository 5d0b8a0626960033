"""Runners of MSML's golden cases: networks, heads, segmentation loss, training steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex.heads import MarginHead
from facex.heads.reference import ReferenceClassifier
from facex_msml import golden_kinds_data
from facex_msml.consensus_loss import ConsensusLoss
from facex_msml.decoder import Decoder
from facex_msml.fm import FMConfig, FMOperator
from facex_msml.from2021 import FROM
from facex_msml.golden_inputs import (
    filled_state,
    gradient_rows,
    margin_of,
    named,
    noise,
    peer_config,
    pictures,
    running_rows,
    unpack,
)
from facex_msml.golden_models import run_backbone_eval, run_backbone_train
from facex_msml.network import FRB, build_teacher
from facex_msml.osb import OSB
from facex_msml.peer import PeerFMOperator
from facex_msml.spherenet import SphereNet


def run_fm_operator(case: Any) -> dict[str, Any]:
    """The operator in evaluation and training mode, forward and backward."""
    p, spec = case.params, case.params["inputs"]
    config = FMConfig(**{k: p[k] for k in ("kernel_size", "resblocks", "activation", "arith", "skip")})
    peer = peer_config(p["peer"])
    operator = FMOperator(p["C"], config, p["seg_channels"]) if peer is None else PeerFMOperator(p["C"], config, peer)
    result: dict[str, Any] = {}
    for mode in p["modes"]:
        operator.load_state_dict(filled_state(case), strict=True)
        operator.train(mode == "train")
        operator.zero_grad()
        y, o, t = (noise(spec[name]).requires_grad_() for name in ("yf", "yo", "yt"))
        z, distance = operator(y, o, t if mode in spec["yt"]["passed_in_modes"] else None)
        loss = (z * noise(spec["R"])).sum()
        if distance is not None:
            loss = loss + p["l2_weight"] * distance.mean()
            result |= named(**{f"{mode}_l2": distance.mean()})
        loss.backward()
        tensors = {"z": z, "dyf": y.grad, "dyo": o.grad, "dyt": t.grad}
        result |= named(**{f"{mode}_{name}": value for name, value in tensors.items() if value is not None})
        result[f"{mode}_grad_rows"] = gradient_rows(operator)
        if mode == "train":
            result["bn_after_rows"] = running_rows(operator)
    return result


def run_osb(case: Any) -> dict[str, Any]:
    """The segmentation branch: maps in evaluation mode, loss and gradients in training mode."""
    p = case.params
    osb = OSB(p["gray"], p["input_size"])
    osb.load_state_dict(filled_state(case), strict=True)
    x = pictures(case, p["input"])
    with torch.no_grad():
        maps, final = osb.eval()(x)
    result = named(**{f"seg{i}": value for i, value in enumerate([*reversed(maps), final])}, final=final)
    maps, final = osb.train()(x)
    spec = p["seg_loss"]
    loss = ConsensusLoss(spec["alpha"], spec["beta"])(final, unpack(case, p["train_mask"]))
    loss.backward()
    result |= named(train_final=final, train_seg_loss=loss)
    result |= {"train_grad_rows": gradient_rows(osb), "bn_after_rows": running_rows(osb)}
    result["seg_requires_grad"] = np.array([value.requires_grad for value in (*reversed(maps), final)])
    return result


def run_seg_loss(case: Any) -> dict[str, Any]:
    """Value and gradient of the segmentation loss."""
    p = case.params
    result: dict[str, Any] = {}
    consensus = ConsensusLoss(p["alpha"], p["beta"])
    for i, entry in enumerate(p["cases"]):
        logits = torch.from_numpy(case.inputs[entry["logits"]]).requires_grad_()
        loss = consensus(logits, torch.from_numpy(case.inputs[entry["mask"]]))
        loss.backward()
        result |= named(**{f"loss{i}": loss, f"grad{i}": logits.grad})
    return result


def run_heads(case: Any) -> dict[str, Any]:
    """Every head plainly (all logits), and its cross entropy by the class-sharded head as well."""
    p = case.params
    labels = torch.from_numpy(case.inputs["labels"]).long()
    embedding = noise({**p["embedding"], "shape": (p["B"], p["din"])})
    weight, bias = (
        torch.from_numpy(case.filled(n, s)) for n, s in (("weight", (p["nc"], p["din"])), ("bias", (p["nc"],)))
    )
    result: dict[str, Any] = {}
    for entry in p["cases"]:
        i, plain = entry["index"], entry["type"] == "Softmax"
        margin = margin_of(entry["type"], entry)
        x = embedding.clone().requires_grad_()
        head = ReferenceClassifier(margin, weight, bias if plain else None, normalize=not plain)
        found = head(x, labels)
        (found.logits.log_softmax(1) * noise(p["R"])).sum().backward()
        result |= named(**{f"out{i}": found.logits, f"dembed{i}": x.grad, f"dweight{i}": head.weight.grad})
        if head.bias is not None:
            result |= named(**{f"dbias{i}": head.bias.grad})
        sharded = MarginHead(margin, p["din"], p["nc"], group="alone", bias=plain, normalize=not plain)
        sharded.load_weight(weight)
        if sharded.bias is not None:
            sharded.bias.data.copy_(bias)
        loss = sharded(embedding, labels).loss_id
        if not torch.allclose(loss, found.loss_id, rtol=1e-5):
            raise AssertionError(f"case {i}: sharded head {loss.item()}, plain logits {found.loss_id.item()}")
        result |= named(**{f"ce{i}": loss})
    return result


def run_decoder(case: Any) -> dict[str, Any]:
    """The decoder, forward and backward."""
    p = case.params
    decoder = Decoder(p["n_init"])
    decoder.load_state_dict(filled_state(case), strict=True)
    x = noise(p["x"]).requires_grad_()
    rebuilt, distance = decoder.distance(x, pictures(case, p["ori"]))
    distance.mean().backward()
    return {**named(rec=rebuilt, loss=distance.mean(), dx=x.grad), "grad_rows": gradient_rows(decoder)}


def run_network_eval(case: Any) -> dict[str, Any]:
    """The teachers and the comparison networks."""
    p = case.params
    module, call = _network(p)
    module.load_state_dict(filled_state(case), strict=True)
    with torch.no_grad():
        outputs = call(module.eval(), pictures(case, p["input"]))
    return named(**outputs, n_params=np.int64(sum(q.numel() for q in module.parameters())))


def _network(p: Mapping[str, Any]) -> tuple[nn.Module, Callable[[Any, Tensor], dict[str, Tensor]]]:
    kind, size = p["network"], tuple(p["shape"][2:])
    if kind == "spherenet":
        return SphereNet(p["type"], p["embedding"], size, gray=p["is_gray"]), lambda m, x: {"feature": m(x)}
    if kind == "from2021":
        return FROM(input_size=size, patterns=p["num_mask"]), _from_outputs
    frb: FRB = "lightcnn" if kind.startswith("lightcnn") else kind
    return build_teacher(frb, p.get("embedding"), size), _teacher_outputs


def _from_outputs(module: FROM, x: Tensor) -> dict[str, Tensor]:
    found = module.outputs(x)
    return {"fc_mask": found.masked, "mask": found.mask, "vec": found.pattern, "fc": found.whole}


def _teacher_outputs(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found = module(x)
    return {"feature": found.embedding, **{f"inter{i}": value for i, value in enumerate(found.stages)}}


KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "msml/backbone_eval": run_backbone_eval,
    "msml/backbone_train": run_backbone_train,
    "msml/fm_operator": run_fm_operator,
    "msml/osb": run_osb,
    "msml/seg_loss": run_seg_loss,
    "msml/heads": run_heads,
    "msml/decoder": run_decoder,
    "msml/network_eval": run_network_eval,
    **golden_kinds_data.KINDS,
}
