"""Goldens of the networks: landmark CNN, patch sampling, fViT, Part fViT, fixed places, landmark views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex.heads import MarginHead
from facex.ops import sample_patches
from facex_lafs.finetune import cosface
from facex_lafs.goldens.common import arrays, filled_network, official_state, outputs_of, pictures, quieten
from facex_lafs.landmark_views import LandmarkNetwork, Sampling
from facex_lafs.mixup import mix
from facex_lafs.networks import PartFViT
from facex_lafs.standard import StandardCoordinateViT


def landmark_network(case: Any) -> LandmarkNetwork:
    """The landmark network with the weights that the case gives it; other names of the file are unused parameters."""
    params = case.params
    network = LandmarkNetwork(
        params["num_landmarks"], params.get("landmark_dropout", 0.5), coordinate_max=params.get("coordinate_max", 111.0)
    )
    state = official_state(case, params["refill"]["salt"])
    network.load_state_dict({k: v for k, v in state.items() if k.startswith(("stn.", "output_layer."))}, strict=True)
    return network


def landmark_cnn_eval(case: Any) -> dict[str, Any]:
    """The map, pooled and raw coordinates, landmarks, and every stage."""
    network = landmark_network(case).eval()
    stages = [f"stn.features.{i}" for i in range(len(network.stn.features))]
    with torch.no_grad(), outputs_of(network, [*stages, "stn", "output_layer"]) as seen:
        theta = network.landmarks(pictures(case))
    found = {"feat": seen["stn"], "pooled": seen["stn"].mean((2, 3)), "raw": seen["output_layer"], "theta": theta}
    return arrays(found | {"stage_fp": [seen[s] for s in stages]})


def landmark_cnn_train(case: Any) -> dict[str, Any]:
    """One pass and its gradients under batch statistics."""
    network = landmark_network(case).train()
    quieten(network)
    with outputs_of(network, ["stn"]) as seen:
        theta = network.landmarks(pictures(case))
    (theta * torch.from_numpy(case.inputs["cotangent"])).sum().backward()
    gradients = gradients_of(network)
    state = network.state_dict()
    return arrays(
        {
            "pooled": seen["stn"].mean((2, 3)),
            "theta": theta,
            "grad_fp": gradients,
            "grad_first_conv": gradients["stn.features.0.0.weight"],
            "grad_output_bias": gradients["output_layer.1.bias"],
            "bn_fp": {str(n): state[str(n)] for n in case.inputs["bn_names"]},
            "tracked": state["stn.features.0.1.num_batches_tracked"],
        }
    )


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """The gradients by parameter name."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def patch_sampling(case: Any) -> dict[str, Any]:
    """Tokens, mosaic and both gradients of the fused operator."""
    p, params = case.params["patch_size"], case.params
    images, landmarks = pictures(case).requires_grad_(), torch.from_numpy(case.inputs["landmarks"]).requires_grad_()
    tokens = sample_patches(images, landmarks, p, impl="fused")
    batch, count = landmarks.shape[:2]
    side = round(count**0.5)
    mosaic = tokens.view(batch, side, side, p, p, 3).permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, side * p, side * p)
    drawn = np.random.RandomState(params["cotangent"]["seed"]).standard_normal(params["cotangent"]["shape"])
    (mosaic * torch.from_numpy(drawn.astype(np.float32))).sum().backward()
    assert images.grad is not None
    return arrays(
        {
            "tokens": tokens[:, :: params["token_step"]],
            "tokens_all_fp": tokens.transpose(0, 1),
            "mosaic_fp": mosaic,
            "grad_landmarks": landmarks.grad,
            "grad_image_rows": images.grad[:, :, :: params["grad_image_row_step"]],
            "grad_image_fp": images.grad.flatten(0, 1),
        }
    )


def backbone_eval(case: Any) -> dict[str, Any]:
    """Embedding of the pictures, the class token after each layer, and tokens fed directly where the case has some."""
    network, _ = filled_network(case)
    network.eval()
    arch = case.params["arch"]
    layers = [f"transformer.layers.{i}" for i in range(arch["depth"])]
    seen_tokens: list[Tensor] = []
    handle = network.patch_to_embedding.register_forward_pre_hook(lambda m, args: seen_tokens.append(args[0]))
    found: dict[str, Any] = {}
    with torch.no_grad():
        with outputs_of(network, [*layers, "patch_to_embedding"]) as seen:
            x = pictures(case)
            if isinstance(network, PartFViT):
                found["emb"], found["theta"] = network(x, with_landmarks=True)
            else:
                found["emb"] = network(x)
        found["cls_after_layer"] = torch.stack([seen[layer][:, 0, ::4] for layer in layers])
        found["tokens_fp"], found["tokens_first"] = seen_tokens[0], seen_tokens[0][:, :2]
        found["patch_embed_fp"] = seen["patch_to_embedding"]
        found |= _token_inputs(case, network)
    handle.remove()
    return arrays(found)


def _token_inputs(case: Any, network: nn.Module) -> dict[str, Tensor]:
    spec = case.params.get("token_inputs")
    if spec is None:
        return {}
    draw, p = np.random.RandomState(spec["seed"]), case.params["arch"]["patch_size"]
    found = {}
    for count in spec["counts"]:
        tokens = (spec["scale"] * draw.standard_normal((case.params["images"]["n"], count, 3 * p * p))).astype(
            np.float32
        )
        found[f"emb_tokens_{count}"] = network(torch.from_numpy(tokens))
    return found


class StoredMask(nn.Module):
    """A recorded draw in the place of a dropout or of stochastic depth; None: nothing was dropped."""

    def __init__(self, mask: Tensor | None, p: float) -> None:
        super().__init__()
        self.mask, self.rate = mask, p

    def forward(self, x: Tensor) -> Tensor:
        """x * mask / (1 - p)"""
        return x if self.mask is None else x * self.mask / (1 - self.rate)


def store_masks(network: nn.Module, case: Any) -> None:
    """Recorded masks in the places of all random modules."""
    rates = case.params["masks"]["p"]
    random = [name for name, part in network.named_modules() if hasattr(part, "p") and isinstance(part.p, float)]
    for name in random:
        mask = None
        if f"mask:{name}" in case.inputs:
            shape = case.inputs[f"maskshape:{name}"].tolist()
            bits = np.unpackbits(case.inputs[f"mask:{name}"])[: int(np.prod(shape))]
            mask = torch.from_numpy(bits.astype(np.float32)).reshape(shape)
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, StoredMask(mask, rates.get(name, rates["*"])))
    recorded = {key.removeprefix("mask:") for key in case.inputs if key.startswith("mask:")}
    if not recorded <= set(random):
        raise AssertionError(f"masks of modules that draw nothing here: {sorted(recorded - set(random))[:4]}")


def backbone_train(case: Any) -> dict[str, Any]:
    """Logits, loss and gradients of a training pass, the loss through the class-sharded head."""
    network, weight = filled_network(case)
    assert weight is not None
    network.train()
    quieten(network) if case.params["quiet"] else store_masks(network, case)
    x = pictures(case)
    found: dict[str, Any] = {}
    if isinstance(network, PartFViT):
        embeddings, found["theta"] = network(x, with_landmarks=True)
    else:
        embeddings = network(x)
    loss, logits, grad_weight = head_step(case, embeddings, weight)
    gradients = gradients_of(network) | {"loss.weight": grad_weight}
    gradients = {str(n): gradients[str(n)] for n in case.inputs["grad_names"]}
    named = {
        "grad_cls_token": "cls_token",
        "grad_patch_bias": "patch_to_embedding.bias",
        "grad_output_bias": "output_layer.1.bias",
        "grad_stn_first": "stn.features.0.0.weight",
        "grad_head": "loss.weight",
    }
    found |= {out: gradients[name] for out, name in named.items() if name in gradients}
    found |= {"logits": logits, "loss": loss, "grad_fp": gradients}
    return arrays(found | {"grad_pos_first": gradients["pos_embedding"][0, :3]})


def head_step(case: Any, embeddings: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, logits and gradient of the class centres through MarginHead; the loss's backward pass is done."""
    spec = case.params["arch"]["head"]
    margin = cosface(spec["s"], spec["m"])
    head = MarginHead(margin, weight.shape[1], weight.shape[0], group="alone")
    head.load_weight(weight)
    labels, shares = mixed_labels(torch.from_numpy(case.inputs["labels"]).long(), lam_of(case))
    output = head(embeddings, labels, shares)
    output.loss.backward()
    logits = dense_logits(margin, embeddings.detach(), weight, *merged(labels, shares))
    return output.loss, logits, head.grads().full()


def lam_of(case: Any) -> float | None:
    """The mixing factor of a case with soft labels; None: hard ones."""
    soft = case.params.get("soft_labels")
    if soft is None:
        return None
    given = soft.get("lam") if isinstance(soft, dict) else soft
    return float(given if isinstance(given, int | float) and not isinstance(given, bool) else case.inputs["lam"])


def mixed_labels(labels: Tensor, lam: float | None) -> tuple[Tensor, Tensor | None]:
    """Labels and shares of a batch mixed with its reverse; None: not mixed."""
    if lam is None:
        return labels, None
    _, pairs, shares = mix(torch.zeros(len(labels), 1), labels, torch.tensor(lam, dtype=torch.float64))
    return pairs, shares


def merged(labels: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Equal labels of a row with the sum of their shares in both places, so that one logit stands for them."""
    if shares is None:
        return labels, None
    same = (labels[:, :1] == labels[:, 1:]).expand_as(shares)
    return labels, torch.where(same, shares.sum(1, keepdim=True), shares).float()


def dense_logits(
    margin: Any, embeddings: Tensor, weight: Tensor, labels: Tensor, shares: Tensor | None = None
) -> Tensor:
    """All logits [B, C] of the margin: labels [B] or [B, K] with their shares, the others' cosines."""
    cos = nn.functional.normalize(embeddings) @ nn.functional.normalize(weight).T
    labels = labels.reshape(len(labels), -1)
    shares = torch.ones_like(labels, dtype=cos.dtype) if shares is None else shares
    targets = margin.target(cos.gather(1, labels), embeddings.norm(dim=1, keepdim=True), shares)
    return (margin.scale * cos).scatter(1, labels, targets)


def standard_coord(case: Any) -> dict[str, Any]:
    """Fixed places with recorded noise and order."""
    network, _ = filled_network(case)
    assert isinstance(network, StandardCoordinateViT)
    network.eval()
    x = pictures(case)
    noise, index = (torch.from_numpy(case.inputs[n]) if n in case.inputs else None for n in ("noise", "index"))
    with torch.no_grad():
        theta = network.landmarks(len(x), x.device, noise, None if index is None else index.long())
        tokens = network.patches(x, theta)
        emb = network(x, noise, None if index is None else index.long())
    step = case.params["token_step"]
    return arrays({"emb": emb, "theta": theta, "tokens": tokens[:, ::step], "tokens_fp": tokens.transpose(0, 1)})


def landmark_views(case: Any) -> dict[str, Any]:
    """Landmarks of the clean picture, perturbed and drawn, and the patches of the augmented one."""
    params = case.params
    network = landmark_network(case).eval()
    clean = pictures(case)
    source = pictures(case, "aug_images") if params["patches_from"] == "aug" else clean
    sampling = Sampling(params["patch_size"], params["noise_sigma"] or 0.0)
    noise, index = (torch.from_numpy(case.inputs[n]) if n in case.inputs else None for n in ("noise", "index"))
    with torch.no_grad():
        base = network.landmarks(clean)
        theta = sampling.perturbed(base, noise)
        theta = sampling.drawn(theta, None if index is None else index.long().squeeze(-1))
        tokens = sampling.tokens(source, theta)
    found = {"base_theta": base, "theta": theta, "tokens": tokens[:, :: params["token_step"]]}
    return arrays(found | {"tokens_fp": tokens.transpose(0, 1)})


KINDS = {
    "lafs/landmark_cnn_eval": landmark_cnn_eval,
    "lafs/landmark_cnn_train": landmark_cnn_train,
    "lafs/patch_sampling": patch_sampling,
    "lafs/backbone_eval": backbone_eval,
    "lafs/backbone_train": backbone_train,
    "lafs/standard_coord": standard_coord,
    "lafs/landmark_views": landmark_views,
}
