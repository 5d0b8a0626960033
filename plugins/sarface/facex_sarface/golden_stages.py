"""Golden cases of the two stages: a whole official training step with its losses, rewards, gradients and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facex.heads import AdaFace, ArcFace, CosFace, Margin
from facex.heads.reference import ReferenceClassifier, apply_rule
from facex.methods import InputSpec
from facex.train.config import HeadConfig, OptimizerConfig
from facex.train.engines import Cadence
from facex.train.head import TrainedHead
from facex.train.launch import Ranks
from facex.train.optim import build_optimizer
from facex_sarface.golden_context import OneRank, Recorded, batch_of, constant, uniform_of
from facex_sarface.golden_inputs import arrays, fill, gradients, pictures, policy, salt, table, with_dropout
from facex_sarface.masking import POLICY, RECOGNISER, RegionRecogniser
from facex_sarface.method import SARFace
from facex_sarface.options import EntropyConfig, ExplorationConfig, RewardConfig
from facex_sarface.pretrain import SARFacePretrain
from facex_sarface.rewards import AREA_EPS


def margin_of(spec: Mapping[str, Any]) -> Margin:
    """The head's margin, in the form of the official head.py."""
    s, m, eps = float(spec["s"]), float(spec["m"]), float(spec.get("clamp_eps", 0))
    if spec["type"] == "cosface":
        return CosFace(s, m, clamp_eps=eps)
    if spec["type"] == "arcface":
        return ArcFace(s, m, margin_grad="exact", past_pi="clip", clamp_eps=eps)
    return AdaFace(s, m, float(spec["h"]), float(spec["t_alpha"]), eps=eps)


def network_options(spec: Mapping[str, Any], margin: Margin) -> dict[str, Any]:
    """Arguments that both stages have, from the words about the recogniser; label maps are given."""
    height, width = spec["input_size"]
    options = {"blocks": spec["units"], "se": spec["se"], "bn_eps": spec["bn_eps"], "bn_momentum": spec["bn_momentum"]}
    if "dropout" in spec:
        options["dropout"] = spec["dropout"]["p"]
    return {
        "margin": margin,
        "backbone": spec["arch"],
        "embedding_size": spec["embedding"],
        "backbone_options": options,
        "input": InputSpec(height, width, "bgr"),
        "parsing": "data",
    }


def second_stage(case: Any, margin: Margin) -> SARFace:
    """SARFace with the case's networks, exploration, reward and entropy."""
    p, options = case.params, dict[str, Any]()
    if "sampling" in p:
        first, second = p["sampling"]
        options["exploration"] = ExplorationConfig(eps=first["eps"], eps_train=second["eps"], floor=p["prob_eps"])
        options["reward"] = RewardConfig(p["reward"]["type"], weight=p["reward"]["sparsity"])
        options["entropy"] = EntropyConfig("pseudo", p["entropy_weight"])
        if p["reward"]["area_eps"] != AREA_EPS:
            raise AssertionError(f"the area's epsilon is {AREA_EPS}")
    method = SARFace(**network_options(p["recogniser"], margin), **options)
    if "always_kept_regions" in p and sorted(method.scheme.kept) != sorted(p["always_kept_regions"]):
        raise AssertionError(f"regions that are always kept: {method.scheme.kept}")
    method.policy = policy(p["policy"])
    fill(case, method.policy, "policy_")
    fill(case, method.backbone, "model_")
    return method


def regions_of(case: Any, method: RegionRecogniser, images: Tensor) -> Tensor:
    """Region ids of the case's label maps."""
    return method.regions(images, {}, torch.from_numpy(case.inputs[str(case.params["labels"])]))


def head_of(method: RegionRecogniser, kernel: np.ndarray, config: OptimizerConfig) -> TrainedHead:
    """The trainer's head with a kernel [D, C]."""
    assert method.head is not None
    head = TrainedHead(method.head, HeadConfig(), config, kernel.shape[1], ranks(), 0)
    head.module.load_weight(torch.from_numpy(np.ascontiguousarray(kernel.T)))
    return head


def ranks() -> Ranks:
    return Ranks(0, 1, 0, torch.device("cpu"))


class Logits:
    """All logits and cosines of a margin over a kernel [D, C], which the trainer's head never stores."""

    def __init__(self, margin: Margin, kernel: np.ndarray, labels: Tensor) -> None:
        weight = torch.from_numpy(np.ascontiguousarray(kernel.T)).float()
        self.plain, self.labels = ReferenceClassifier(margin, weight).eval(), labels

    def __call__(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with margin and scale, and the cosines as the margin cuts them, [n, C] each."""
        with torch.no_grad():
            out = self.plain(embeddings.float(), self.labels)
            unknown = torch.zeros(len(out.cosine), 1)
            return out.logits, apply_rule(self.plain.margin.negatives(unknown, unknown == 0), out.cosine)


# -- stage 1 ----------------------------------------------------------------------------------------------------------
def run_stage1(case: Any) -> dict[str, Any]:
    """One batch of the first stage: forward and backward."""
    p, spec = case.params, case.params["recogniser"]
    margin, classes = margin_of(p["head"]), int(p["num_classes"])
    method = SARFacePretrain(
        **network_options(spec, margin), clean_probability=p["clean_probability"], clean_per="batch"
    )
    fill(case, method.backbone, "model_").train()
    with_dropout(case, method.backbone, spec)  # type: ignore[arg-type]
    kernel = case.filled("kernel", (spec["embedding"], classes), False, salt(case))
    head, images = head_of(method, kernel, OptimizerConfig()), pictures(case)
    drawn, count = case.inputs[p["drawn_action"]], method.scheme.count
    whole = np.ones((len(images), count), drawn.dtype)
    whole[:, : drawn.shape[1]] = drawn
    draws = {"drop": 1 - uniform_of(whole), "clean": constant(p["coin"], len(images))}
    network = Recorded(method.backbone)
    ctx: Any = OneRank(method, {RECOGNISER: network}, head.module, draws)
    batch = batch_of(images, regions_of(case, method, images), case.inputs[p["targets"]])
    (update,) = list(_backward(method.training_step(batch, ctx), head))
    logits = Logits(margin, kernel, batch["label"])(network.outputs[0])[0]
    backbone: Any = method.backbone
    first, last = backbone.input_layer[1], backbone.output_layer[4]
    keep = method.keep(batch, ctx)[:, : p["region_channels"]]
    result = {**_unit(network.outputs[0]), **arrays(region112=batch["regions"], used_action=keep.to(torch.int8))}
    result |= arrays(processed_slice=network.inputs[0], processed_mean=network.inputs[0], logits=logits)
    result |= arrays(loss=update, bn_mean=first.running_mean, bn_var=first.running_var)
    result |= arrays(out_bn_mean=last.running_mean, out_bn_var=last.running_var)
    return result | table("rec_grad", _recogniser_gradients(method, head))


def _backward(updates: Any, head: TrainedHead) -> Any:
    """Each recogniser loss of a generator of Updates, after its backward pass."""
    for update in updates:
        loss = head.module(update.embeddings, update.labels).loss
        loss.backward()
        yield loss


def _unit(embeddings: Tensor, suffix: str = "") -> dict[str, Any]:
    lengths = embeddings.norm(dim=1, keepdim=True)
    return arrays(**{f"emb{suffix}": functional.normalize(embeddings), f"norm{suffix}": lengths})


def _recogniser_gradients(method: RegionRecogniser, head: TrainedHead) -> dict[str, np.ndarray | None]:
    found = gradients(method.backbone, "model.")
    return found | {"head.kernel": head.module.grads().full().T.contiguous().numpy().copy()}


# -- stage 2 ----------------------------------------------------------------------------------------------------------
def optimizer_config(spec: Mapping[str, Any]) -> OptimizerConfig:
    """The run's optimizer for an official one."""
    given = {k: spec[k] for k in ("lr", "momentum", "nesterov", "eps") if k in spec}
    if "betas" in spec:
        given["betas"] = tuple(spec["betas"])
    return OptimizerConfig(name=spec["type"].lower(), weight_decay=spec["weight_decay"], **given)


def run_stage2(case: Any) -> dict[str, Any]:
    """The whole step: rewards, the policy's loss and step, then the recogniser's at its cadence."""
    p = case.params
    kernel = case.inputs["head_kernel_value"]
    method = second_stage(case, margin_of(p["head"])).train()
    head = head_of(method, kernel, optimizer_config(p["rec_optimizer"]))
    images = pictures(case)
    nets = {RECOGNISER: Recorded(method.backbone), POLICY: Recorded(method.policy)}
    ctx: Any = OneRank(method, nets, head.module, _stage2_draws(case))
    batch = batch_of(images, regions_of(case, method, images), case.inputs[p["targets"]])
    step = method.training_step(batch, ctx)
    found = arrays(region112=batch["regions"]) | _policy_part(case, method, next(step))
    found |= _recogniser_part(case, method, head, next(step))
    found |= _passes(method, ctx, batch, Logits(method.head.margin, kernel, batch["label"]))  # type: ignore[union-attr]
    policy_net: Any = method.policy
    backbone: Any = method.backbone
    first = policy_net.feature_extractor[0]
    return found | arrays(
        policy_bn1_mean=first.running_mean,
        policy_bn1_var=first.running_var,
        policy_bn1_batches=first.num_batches_tracked,
        model_bn_batches=backbone.input_layer[1].num_batches_tracked,
        model_training_after=np.bool_(method.backbone.training),
    )


def _stage2_draws(case: Any) -> dict[str, Tensor]:
    draws: dict[str, Tensor] = {}
    for stream, sampling in zip(("explore", "train"), case.params["sampling"], strict=True):
        actions = case.inputs[sampling["actions"]]
        noise = case.inputs[sampling["noise"]] if sampling["noise"] else np.zeros(actions.shape, np.float32)
        draws[f"{stream}/coin"] = constant(sampling["coin"], len(actions))
        draws[f"{stream}/noise"] = torch.from_numpy(noise)
        draws[f"{stream}/actions"] = uniform_of(actions)
    return draws


def _policy_part(case: Any, method: SARFace, update: Any) -> dict[str, Any]:
    """Loss, gradients and step of the policy."""
    config: Any = optimizer_config(case.params["policy_optimizer"])
    optimizer = build_optimizer(config, method.param_groups(POLICY))
    loss = sum(update.losses.values())
    loss.backward()
    found = table("policy_grad", gradients(method.policy))
    optimizer.step()
    after = {name: q.detach().numpy().copy() for name, q in method.policy.named_parameters()}
    seen = arrays(loss_policy=loss, entropy=update.logs["policy_entropy"], logged_seg_num=update.logs["kept_regions"])
    return found | table("policy_after", after) | seen


def _recogniser_part(case: Any, method: SARFace, head: TrainedHead, update: Any) -> dict[str, Any]:
    """Loss, gradients and, where the batch is due, step of recogniser and head."""
    p = case.params
    config: Any = optimizer_config(p["rec_optimizer"])
    optimizer = build_optimizer(config, method.param_groups(RECOGNISER))
    loss = next(_backward(iter([update]), head))
    found = table("rec_grad", _recogniser_gradients(method, head)) | arrays(loss_rec=loss)
    due = Cadence(p["rec_every"], accumulate=False).due(int(p["batch_idx"]))
    if due:
        optimizer.step()
        head.step(config.lr, 1.0, 1.0)
    after = {f"model.{name}": q.detach().numpy().copy() for name, q in method.backbone.named_parameters()}
    after["head.kernel"] = head.module.weight.detach().T.contiguous().numpy().copy()
    return found | table("rec_after", after) | {"model_stepped": np.int64(due)}


def _passes(method: SARFace, ctx: Any, batch: Any, logits: Logits) -> dict[str, Any]:
    """What the recogniser and the policy saw and said in each pass."""
    assert method.seen is not None
    rollout, (whole, masked, drawn) = method.seen.rollout, ctx.nets[RECOGNISER].outputs
    picked = ctx.nets[RECOGNISER].inputs[1]
    (logits_full, cos_full), (_, cos_mask), (logits_mask2, cos_mask2) = map(logits, (whole, masked, drawn))
    acc, mask_accs = (cos.gather(1, batch["label"][:, None])[:, 0] for cos in (cos_full, cos_mask))
    eps = method.explorer.config.eps_train
    again = method.explorer.distribution(ctx.nets[POLICY].outputs[1], eps, "train", batch, ctx)
    judged = rollout.judged[0]
    found = arrays(logits_full=logits_full, cos_full=cos_full, cos_mask=cos_mask, acc=acc, mask_accs=mask_accs)
    found |= arrays(higher=mask_accs > acc, rewards=judged.recognition, region_size=judged.area)
    found |= arrays(final_rewards=judged.reward, probs1=rollout.probs, log_probs1=rollout.log_prob[0])
    found |= arrays(action24=method.scheme.keep(rollout.actions[0]).to(torch.int8), probs2=again.probs)
    found |= arrays(processed_slice=picked, processed_mean=picked, logits_mask2=logits_mask2, cos_mask2=cos_mask2)
    return found | _unit(whole, "_full")
