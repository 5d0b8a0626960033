"""Golden cases of training: drawing actions, validation, optimizers; and those of the two stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from facex.heads import CosFace
from facex.train.config import OptimizerConfig, ScheduleConfig
from facex.train.optim import build_optimizer
from facex.train.schedules import build_schedule
from facex_sarface import golden_stages
from facex_sarface.actions import Perturbed, add_noise
from facex_sarface.exploration import Explorer
from facex_sarface.golden_inputs import arrays, pictures
from facex_sarface.golden_stages import head_of, regions_of, second_stage
from facex_sarface.masking import POLICY, RECOGNISER
from facex_sarface.method import SARFace
from facex_sarface.options import ExplorationConfig


def run_actions(case: Any) -> dict[str, Any]:
    """Probabilities after the noise, log-probability of the recorded actions, gradient."""
    p = case.params
    probs = torch.from_numpy(case.inputs["probs_in"]).requires_grad_()
    noise, used = torch.from_numpy(case.inputs["noise"]), probs
    if p["add_noise"]:
        noise = noise if noise.numel() else torch.zeros_like(probs)
        used = add_noise(probs, noise, torch.tensor(float(p["coin"])), float(p["eps"]))
    log_prob = Perturbed(used, float(p["prob_eps"])).log_prob(torch.from_numpy(case.inputs["actions"]))
    (log_prob * torch.from_numpy(case.inputs["w"])).sum().backward()
    return arrays(probs_used=used, log_prob=log_prob, g_probs=probs.grad)


def run_validation(case: Any) -> dict[str, Any]:
    """The fused embedding of the whole picture, the policy's probabilities, the recorded mask."""
    method, images = second_stage(case, CosFace()).eval(), pictures(case)
    regions = regions_of(case, method, images)
    with torch.no_grad():
        found = method.embed(images, method.networks(), flip=True)
        probs = method.policy(images, regions).sigmoid()
        keep = method.scheme.keep(torch.from_numpy(case.inputs[case.params["actions"]]).float())
        masked, _ = method.mask(images, regions, keep)
    assert found.quality is not None
    result = arrays(emb=functional.normalize(found.vector), norm=found.quality[:, None])
    return result | arrays(probs=probs, processed_slice=masked)


def run_optimizer(case: Any) -> dict[str, Any]:
    """Groups, rates over the epochs, the policy's Adam, the exploration schedule."""
    p = case.params
    prefixes = p["name_prefixes"]
    decay = 5e-4
    config: Any = OptimizerConfig("sgd", p["lr"], p["momentum"], weight_decay=decay)
    method = SARFace(CosFace(), p["arch"], parsing="data")
    head = head_of(method, np.zeros((512, p["num_classes"]), np.float32), config)
    entries = build_optimizer(config, method.param_groups(RECOGNISER)).param_groups
    names = _names(method.backbone, entries, prefixes["recogniser"])
    rates: dict[float, list[str]] = {e["weight_decay"]: n for e, n in zip(entries, names, strict=True)}
    rates[head.decay].append(f"{prefixes['head']}kernel")
    adam: Any = OptimizerConfig("adam", p["policy_lr"], betas=tuple(p["policy_betas"]), eps=p["policy_eps"])
    (group,) = build_optimizer(adam, method.param_groups(POLICY)).param_groups
    plan: Any = ScheduleConfig("step", list(p["lr_milestones"]), p["lr_gamma"])
    schedule = build_schedule(plan, 1, p["epochs"], p["lr"])
    e = p["epsilon_schedule"]
    explorer = Explorer(ExplorationConfig(eps=e["start"], eps_end=e["end"], steps=e["steps"]))
    return {
        "decay": rates[decay],
        "no_decay": rates[0.0],
        "wd": np.array([entry["weight_decay"] for entry in entries]),
        "momentum": np.array([entry["momentum"] for entry in entries]),
        "nesterov": np.array([entry["nesterov"] for entry in entries]),
        "lr_per_epoch": np.array([schedule.lr(epoch) for epoch in range(p["epochs"])]),
        "policy": _names(method.policy, [group], prefixes["policy"])[0],
        "policy_lr": np.float64(group["lr"]),
        "policy_betas": np.array(group["betas"]),
        "policy_eps": np.float64(group["eps"]),
        "policy_wd": np.int64(group["weight_decay"]),
        "epsilon": np.array([explorer.schedule().value(i, 0) for i in p["epsilon_at"]]),
    }


def _names(module: torch.nn.Module, entries: list[dict[str, Any]], prefix: str) -> list[list[str]]:
    known = {id(q): f"{prefix}{name}" for name, q in module.named_parameters()}
    return [[known[id(q)] for q in entry["params"]] for entry in entries]


KINDS = {
    "sarface/action_sampling": run_actions,
    "sarface/stage1_forward": golden_stages.run_stage1,
    "sarface/stage2_step": golden_stages.run_stage2,
    "sarface/validation_step": run_validation,
    "sarface/optimizer": run_optimizer,
}
