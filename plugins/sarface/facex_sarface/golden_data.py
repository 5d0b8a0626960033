"""Golden cases of heads, augmentation, alignment and evaluation: the core's, as SARFace uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facex.data import augment
from facex.data.resample import CV2_KERNELS
from facex.eval import fusion, identification, ijb, templates
from facex.eval.verification import evaluate_pairs
from facex.heads import AdaFace, ArcFace, CosFace, Margin, MarginHead
from facex.heads.reference import ReferenceClassifier, apply_rule
from facex.inference import align
from facex_sarface.golden_inputs import arrays, byte_pictures, salt


def margin_of(p: Mapping[str, Any]) -> Margin:
    """The margin of a head in the words of the official code."""
    if p["head"] == "cosface":
        return CosFace(p["s"], p["m"], clamp_eps=p["clamp_eps"])
    if p["head"] == "arcface":
        return ArcFace(p["s"], p["m"], margin_grad="exact", past_pi="clip", clamp_eps=p["clamp_eps"])
    margin = AdaFace(p["s"], p["m"], p["h"], p["t_alpha"], eps=p["clamp_eps"], norm_clip=tuple(p["norm_clip"]))
    if p["std_eps"] != margin.eps:
        raise AssertionError(f"AdaFace adds its eps {margin.eps} to the running std, the case {p['std_eps']}")
    margin.batch_mean.fill_(p["batch_mean_start"])
    margin.batch_std.fill_(p["batch_std_start"])
    return margin


class GivenNorm(Margin):
    """A margin that is told the embeddings' lengths: the official head gets unit embeddings and lengths beside them."""

    def __init__(self, margin: Margin, norm: Tensor) -> None:
        super().__init__(margin.scale)
        self.margin, self.norm = margin, norm

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        """The margin's, with the lengths given."""
        return self.margin.target(cos, self.norm.expand_as(cos), weight)

    def negatives(self, cos: Tensor, valid: Tensor) -> Any:
        """The margin's."""
        return self.margin.negatives(cos, valid)

    def observe(self, statistics: Mapping[str, Tensor], reduce: Any) -> None:
        """The margin's, with the lengths given."""
        self.margin.observe({**statistics, "norm": self.norm[:, 0].detach()}, reduce)


def run_loss(case: Any) -> dict[str, Any]:
    """A head over two batches: plainly with all logits, and its loss and kernel gradient by the class-sharded head as well."""
    p = case.params
    shape = (p["embedding"], p["num_classes"])
    kernel = torch.from_numpy(case.filled("kernel", shape, False, salt(case))).requires_grad_()
    margin, sharded = margin_of(p), MarginHead(margin_of(p), *shape, group="alone")
    sharded.load_weight(kernel.detach().T.contiguous())
    result: dict[str, Any] = {}
    for step in range(p["steps"]):
        emb, norm, y = (torch.from_numpy(case.inputs[f"{name}{step}"]) for name in ("emb", "norm", "y"))
        found = _plain_step(margin, kernel, emb.requires_grad_(), norm.requires_grad_(), y)
        _check_sharded(sharded, (emb * norm).detach(), y, found)
        found |= {name: buffer.clone() for name, buffer in margin.named_buffers()}
        result |= arrays(**{f"{name}{step}": value for name, value in found.items()})
    return result


def _plain_step(margin: Margin, kernel: Tensor, emb: Tensor, norm: Tensor, y: Tensor) -> dict[str, Any]:
    """Logits, loss and gradients of one batch; the kernel's columns are normalised here, the embeddings are as given."""
    centres = functional.normalize(kernel.T, eps=1e-12)
    plain = ReferenceClassifier(GivenNorm(margin, norm), centres, normalize=False)
    out = plain(emb, y)
    (gnorm,) = torch.autograd.grad(out.loss_id, norm, allow_unused=True, retain_graph=True)
    gemb, gcentres = torch.autograd.grad(out.loss_id, (emb, plain.weight))
    (gkernel,) = torch.autograd.grad(centres, kernel, gcentres)
    rule = margin.negatives(out.cosine, torch.ones_like(y, dtype=torch.bool))
    return {
        "logits": out.logits,
        "target_logit": out.logits.gather(1, y[:, None])[:, 0],
        "loss": out.loss_id,
        "cos": apply_rule(rule, out.cosine),
        "gemb": gemb,
        "gnorm": gnorm,
        "gkernel": gkernel,
        "gkernel_stats": gkernel,
    }


def _check_sharded(head: MarginHead, raw: Tensor, y: Tensor, plain: Mapping[str, Any]) -> None:
    """The head that training uses, on raw embeddings, gives the same loss and gradient of the kernel."""
    head.zero_grad()
    loss = head(raw, y).loss_id
    loss.backward()
    if not torch.allclose(loss, plain["loss"], rtol=1e-4):
        raise AssertionError(f"sharded head: loss {loss.item()}, plain logits {plain['loss'].item()}")
    off = (head.grads().full().T - plain["gkernel"]).abs().max() / plain["gkernel"].abs().max()
    if off > 1e-3:
        raise AssertionError(f"sharded head: the kernel's gradient is off by {off:.2g} of its largest value")


def run_augmentation(case: Any) -> dict[str, Any]:
    """AdaFace's three changes with the recorded draws (-1: not applied), in the case's order."""
    data, kernels = case.inputs, {flag: name for name, flag in CV2_KERNELS.items()}
    out = []
    for i, image in enumerate(byte_pictures(case)):
        for operation in case.params["order_of_operations"]:
            if operation == "crop" and data["crop"][i][0] >= 0:
                image = augment.crop_on_black(image, *data["crop"][i].tolist())
            elif operation == "low_res" and data["side_ratio"][i] > 0:
                down, up = (kernels[int(code)] for code in data["interp"][i])
                image = augment.low_resolution(image, float(data["side_ratio"][i]), down, up)
            elif operation == "photometric" and data["order"][i][0] >= 0:
                image = augment.photometric(image, data["order"][i].tolist(), *data["factors"][i].tolist())
        out.append(image)
    return {"out": np.stack(out)}


def run_alignment(case: Any) -> dict[str, Any]:
    """The similarity of five points to the template, and the warp."""
    side = case.params["out_size"][0]
    points, target = case.inputs[case.params["landmarks"]], case.inputs[case.params["template"]]
    matrices = [align.umeyama(p, target) for p in points]
    warped = [align.warp(image, m, side) for image, m in zip(byte_pictures(case), matrices, strict=True)]
    return {"matrix": np.stack(matrices), "out": np.stack(warped)}


def run_verification(case: Any) -> dict[str, Any]:
    """AdaFace's 1:1 protocol on embeddings as they are."""
    data = case.inputs
    found = evaluate_pairs(data["emb"], data["issame"], int(data["folds"]), val_far=None, uneven_folds=True)
    return {
        "tpr": found.tpr,
        "fpr": found.fpr,
        "accuracy": found.fold_accuracy,
        "best_thresholds": found.thresholds,
        "acc_mean": found.accuracy,
        "thr_mean": np.mean(found.thresholds),
    }


def run_flip_fusion(case: Any) -> dict[str, Any]:
    """Every fusion of two views; the default under its own name too."""
    p, result = case.params, dict[str, Any]()
    for method in p["methods"]:
        features, norm = fusion.fuse_views(case.inputs["emb"], case.inputs["norm"], method)
        result |= {f"{method}_f": features, f"{method}_n": norm}
        if method == p["default"]:
            result |= {"fused": features, "fused_norm": norm}
    return result


def run_ijb(case: Any) -> dict[str, Any]:
    """AdaFace's IJB: templates, 1:1, and 1:N with one mate a probe."""
    p, data = case.params, case.inputs
    pooled = templates.insightface_templates(data["feats"], data["templates"], data["medias"])
    one = ijb.verify_templates(pooled, data["p1"], data["p2"], data["label"], fars=data[p["tar_at"]].tolist())
    ids = {side: data[f"{side}_templates"] for side in ("gallery", "probe")}
    features = {side: pooled.select(wanted) for side, wanted in ids.items()}
    people = {side: data["subjects"][wanted - 1] for side, wanted in ids.items()}
    sides = (features["probe"], features["gallery"], people["probe"], people["gallery"])
    many = identification.identify_single_mates(*sides, p["topk"], p["fars_1n"])
    mates = people["gallery"][None] == people["probe"][:, None]
    return {
        "template_feats": pooled.features,
        "score": one.scores,
        "tar_percent": np.round(100 * np.array([*one.tar.values()]), 2),
        "gallery_feats": features["gallery"],
        "probe_feats": features["probe"],
        "mask": mates.argmax(1),
        **{f"top{rank}": rate for rank, rate in zip(p["topk"], many.rates, strict=True)},
        "far_pr_th": np.stack([many.fars, many.recall, many.thresholds], 1),
    }


KINDS = {
    "sarface/loss": run_loss,
    "sarface/augmentation": run_augmentation,
    "sarface/alignment": run_alignment,
    "sarface/verification": run_verification,
    "sarface/flip_fusion": run_flip_fusion,
    "sarface/ijb": run_ijb,
}
