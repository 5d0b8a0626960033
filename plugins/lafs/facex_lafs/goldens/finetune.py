"""Goldens of fine-tuning: loss, mixup, groups, rates, whole steps, the regulariser, the rule that keeps checkpoints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.heads import MarginHead
from facex.heads.margins import Softmax
from facex.methods import Batch, Field
from facex.train.config import OptimizerConfig
from facex.train.optim import build_optimizer, resolve_groups, set_rates
from facex.train.schedules import GradualCosineSchedule, Warmup
from facex_lafs.finetune import LAFS, Decay, LandmarkRegulariser, cosface
from facex_lafs.goldens.common import HEAD_KEY, arrays, official_state, quieten
from facex_lafs.goldens.models import dense_logits, merged, mixed_labels
from facex_lafs.landmark_cnn import landmark_loss
from facex_lafs.mixup import Mixup, mix
from facex_lafs.recipe import MIN_LR, BestRule, finetune_schedule, scaled_lr

COSINE_STEPS = 10  # of finetune_step


def cosface_loss(case: Any) -> dict[str, Any]:
    """Through the class-sharded head; the logits that it never stores beside it."""
    p = case.params
    emb, weight = torch.from_numpy(case.inputs["emb"]).requires_grad_(), torch.from_numpy(case.inputs["weight"])
    lam = p["lam"] if p["labels"] == "soft" else None
    labels, shares = mixed_labels(torch.from_numpy(case.inputs["labels"]).long(), lam)
    margin = cosface(p["s"], p["m"])
    head = MarginHead(margin, weight.shape[1], weight.shape[0], group="alone")
    head.load_weight(weight)
    output = head(emb, labels, shares)
    output.loss.backward()
    logits = dense_logits(margin, emb.detach(), weight, *merged(labels, shares))
    return arrays({"logits": logits, "loss": output.loss, "grad_emb": emb.grad, "grad_weight": head.grads().full()})


def mixup(case: Any) -> dict[str, Any]:
    """Mixed pictures, and the targets that the head's loss stands for, read off its gradient at given logits."""
    p, logits = case.params, torch.from_numpy(case.inputs["logits"]).double()
    rows, classes = logits.shape
    found: dict[str, list[Tensor]] = {"x_out": [], "targets": [], "soft_ce": []}
    for call, lam in enumerate(case.inputs["lam_f64"].tolist()):
        labels = torch.from_numpy(case.inputs["labels"][call]).long()
        x = torch.from_numpy(case.inputs["x"][call])
        found["x_out"].append(mix(x, labels, torch.tensor(lam))[0])
        pairs, shares = mixed_labels(labels, lam)
        head = MarginHead(
            *(Softmax(1.0), classes, classes),
            group="alone",
            normalize=False,
            label_smoothing=p["label_smoothing"],
            dtype=torch.float64,
        )
        head.load_weight(torch.eye(classes, dtype=torch.float64))
        leaf = logits.clone().requires_grad_()
        loss = head(leaf, pairs, shares).loss
        loss.backward()
        assert leaf.grad is not None
        found["targets"].append(logits.softmax(1) - rows * leaf.grad)
        found["soft_ce"].append(loss)
    return arrays({name: torch.stack(values) for name, values in found.items()})


def finetune_lr(case: Any) -> dict[str, Any]:
    """The published schedule before each optimizer step, of a plain group and of one with a scale that is not
    applied."""
    p = case.params
    sizes = (p["batch_per_rank"], p["world_size"], p["acc_step"])
    schedule, total = finetune_schedule(p["num_images"], *sizes, p["epochs"], p["warmup_epochs"], p["lr"])
    rates = np.array([schedule.lr(k) for k in range(total + p["extra_steps"])])
    method = _tiny_method(None)
    scale = method.param_groups("backbone")[0].lr_scale
    return {
        "lr_f64": rates,
        "lr_group2_f64": rates * scale,
        "base_lr_f64": np.array([scaled_lr(p["lr"], *sizes)]),
        "tmax": np.array([schedule.cosine_steps, schedule.warmup.steps, total]),
    }


def _tiny_method(layer: float | None) -> LAFS:
    options = {"dim": 8, "depth": 1, "heads": 1, "mlp_dim": 8}
    return LAFS(backbone_options=options, decay=Decay(layer=layer))


def _method(arch: dict[str, Any], decay: Decay) -> LAFS:
    keys = ("dim", "depth", "heads", "head_dim", "mlp_dim", "num_patches", "patch_size", "pool", "attention_scale")
    options = {k: arch[k] for k in keys} | {"input_size": arch["image_size"]}
    head = arch.get("head") or {"s": 64.0, "m": 0.4}
    return LAFS(
        "part_fvit_b" if arch["with_land"] else "fvit_b", options, head["s"], head["m"], Mixup(prob=0.0), decay=decay
    )


def param_groups(case: Any) -> dict[str, Any]:
    """Group, rate scale and weight decay of every parameter, the class centres included."""
    p = case.params
    with torch.device("meta"):
        method = _method(p["arch"], Decay(p["weight_decay"], p["weight_decay_stn"], layer=p["layer_decay"]))
    names = {id(q): n for n, q in method.backbone.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in method.param_groups("backbone"):
        for parameter in group.parameters:
            assert group.weight_decay is not None
            found[names[id(parameter)]] = (group.lr_scale, group.weight_decay)
    if p["arch"].get("head"):
        # the head is stepped beside the network, at its rate and with the optimizer's own weight decay
        found[HEAD_KEY] = (1.0, p["weight_decay"])
    return {
        "names": np.array(list(found)),
        "group": found,
        "group_lr_scale_f64": {n: scale for n, (scale, _) in found.items()},
        "group_weight_decay_f64": {n: decay for n, (_, decay) in found.items()},
    }


def finetune_step(case: Any) -> dict[str, Any]:
    """Micro-batches through the method, its head and its optimizer groups."""
    p = case.params
    o = p["optimizer"]
    method = _method(p["arch"], Decay(o["weight_decay"], o["weight_decay_stn"], o["weight_decay_1d"]))
    state = official_state(case, p["refill"]["salt"])
    centres = state.pop(HEAD_KEY)
    method.backbone.load_state_dict(state, strict=True)
    method.train()
    quieten(method)
    assert method.head is not None
    head = MarginHead(method.head.margin, centres.shape[1], centres.shape[0], group="alone")
    head.load_weight(centres)
    config: Any = OptimizerConfig(
        "adamw", o["lr"], weight_decay=o["weight_decay"], betas=tuple(o["betas"]), eps=o["eps"]
    )
    head.build_optimizer(
        name="adamw", lr=o["lr"], weight_decay=o["weight_decay"], betas=tuple(o["betas"]), eps=o["eps"]
    )
    optimizer = build_optimizer(config, resolve_groups(config, method.param_groups("backbone")))
    rates = GradualCosineSchedule(o["lr"], COSINE_STEPS, MIN_LR, Warmup(p["lr_schedule"]["warmup_steps"]))
    found: dict[str, Any] = {"losses_f64": [], "lr_f64": []}
    steps, acc = p["optimizer_steps"], p["acc_step"]
    for micro in range(p["micro_batches"]):
        images, loss = _micro_batch(case, method, head, micro)
        (loss / acc).backward()
        found["losses_f64"].append(float(loss.detach()) / acc)
        if (micro + 1) % acc == 0:
            step = (micro + 1) // acc
            rate = rates.lr(step - 1)
            found["lr_f64"].append(rate)
            found[f"theta_{step}"] = _theta(method, images)
            set_rates(optimizer.param_groups, rate)
            optimizer.step()
            optimizer.zero_grad()
            head.step(rate)
            found |= _after(method, head, step)
    assert steps == len(found["lr_f64"])
    buffers = dict(method.backbone.named_buffers())
    statistics = {"bn_mean": "running_mean", "bn_var": "running_var"}
    return arrays(found | {out: buffers[f"stn.features.0.1.{name}"] for out, name in statistics.items()})


def _micro_batch(case: Any, method: LAFS, head: MarginHead, micro: int) -> tuple[Tensor, Tensor]:
    """Network-ready pictures of a micro-batch, and its loss."""
    p = case.params
    made = case.images(p["batch"], p["image_size"], p["image_seed_base"] + micro)
    pictures = torch.from_numpy(np.round((made + 1) * 127.5).astype(np.uint8)).permute(0, 2, 3, 1)
    labels = torch.from_numpy(case.inputs["labels"][micro]).long()
    lam = torch.tensor(p["lam_cycle"][micro % len(p["lam_cycle"])])
    x, pairs, shares = mix(method.network_input(pictures, "rgb"), labels, lam)
    kinds = {"image": Field("image"), "label": Field("label")}
    batch = Batch({"image": x, "label": pairs}, kinds, "rgb", torch.arange(len(x)), torch.arange(len(x)))
    batch.extras["shares"] = shares
    ctx: Any = SimpleNamespace(nets=method.networks(), epoch=0)
    (update,) = method.training_step(batch, ctx)
    assert update.embeddings is not None
    assert update.labels is not None
    return x, head(update.embeddings, update.labels, update.label_weights).loss


@torch.no_grad()
def _theta(method: LAFS, images: Tensor) -> Tensor:
    """Landmarks of the first picture under batch statistics, which are left as they are."""
    buffers = {n: b.clone() for n, b in method.backbone.named_buffers()}
    landmarks = method.backbone.landmarks(images)  # type: ignore[operator]
    for name, buffer in method.backbone.named_buffers():
        buffer.copy_(buffers[name])
    return landmarks[0]


def _after(method: LAFS, head: MarginHead, step: int) -> dict[str, Any]:
    parameters = {n: q.detach().clone() for n, q in method.backbone.named_parameters()}
    parameters[HEAD_KEY] = head.weight.detach().clone()
    return {
        f"param_fp_{step}": parameters,
        f"cls_{step}": parameters["cls_token"],
        f"head_{step}": parameters[HEAD_KEY],
    }


def landmark_regularization(case: Any) -> dict[str, Any]:
    """Weight by epoch, the error, and the whole loss with its gradient."""
    p = case.params
    regulariser = LandmarkRegulariser(tuple((int(a), int(b), float(w)) for a, b, w in p["weights"]))
    last = max(int(b) for _, b, _ in p["weights"])
    predicted = torch.from_numpy(case.inputs["predicted"]).requires_grad_()
    error = landmark_loss(torch.from_numpy(case.inputs["target"]), predicted, p["coordinate_scale"]).mean()
    total = (p["ce"] + regulariser.weight(p["epoch"]) * error) / p["acc_step"]
    total.backward()
    return arrays(
        {
            "weight_by_epoch_f64": np.array([regulariser.weight(e) for e in range(last + 1)]),
            "mse": error,
            f"total_epoch{p['epoch']}_acc{p['acc_step']}": total,
            "grad_predicted": predicted.grad,
        }
    )


def need_save(case: Any) -> dict[str, Any]:
    """The rule over a sequence of evaluations."""
    p = case.params
    rule = BestRule(
        p["lfw_always_above"], p["near_best"], p["near_best_share"], p["near_best_lfw_above"], tuple(p["best_start"])
    )
    return {"save": np.array(rule.kept(case.inputs["acc_f64"].tolist()))}


KINDS = {
    "lafs/cosface": cosface_loss,
    "lafs/mixup": mixup,
    "lafs/finetune_lr": finetune_lr,
    "lafs/param_groups": param_groups,
    "lafs/finetune_step": finetune_step,
    "lafs/landmark_regularization": landmark_regularization,
    "lafs/need_save": need_save,
}
