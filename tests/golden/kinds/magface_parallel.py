"""Goldens of MagFace's split FC: sharded classes, with the official loss of norm gradients across ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from facex.heads import MarginHead
from facex.heads.reference import ReferenceClassifier
from tests.golden import margin_specs
from tests.golden.case import Case, Variant
from tests.golden.distributed import run_ranks
from tests.golden.kinds.losses import golden_weight


def run_parallel(case: Case) -> list[Variant]:
    """The case on `world_size` ranks, through the op's reference (with cosines) and through the fused op."""
    weight = golden_weight(case)[0].numpy()
    world, variants = case.params["world_size"], []
    for impl in ("reference", "fused"):
        function = "tests.golden.kinds.magface_parallel:rank_outputs"
        ranks = run_ranks(world, function, case.params, case.inputs, weight, impl)
        absent = [f"cos_theta_rank{r}" for r in range(world)] if impl == "fused" else []
        variants.append(Variant({k: v for rank in ranks for k, v in rank.items()}, impl, frozenset(absent)))
    return variants


def rank_outputs(
    rank: int, world_size: int, params: dict[str, Any], inputs: dict[str, np.ndarray], weight: np.ndarray, impl: str
) -> dict[str, Any]:
    """What one rank sees; gradients as the official code has them, before any averaging."""
    margin = margin_specs.magface(params, params)
    head = MarginHead(
        margin,
        weight.shape[1],
        weight.shape[0],
        group="alone" if world_size == 1 else None,
        impl=impl,
        official_norm_grad=bool(params.get("official_norm_grad", True)),
        official_grad_scale=not params.get("gradient_averaging_over_ranks", False),
    )
    head.load_weight(torch.from_numpy(weight))
    features = torch.from_numpy(inputs["features"])
    x = head.ranks.mine(features).clone().requires_grad_()
    out = head(x, head.ranks.mine(torch.from_numpy(inputs["labels"])).reshape(-1))
    (grad_id,) = torch.autograd.grad(out.loss_id, x, retain_graph=True)
    head.zero_grad()
    (grad,) = torch.autograd.grad(out.loss, x)
    got = {
        "loss": head.global_mean(out.loss),
        "loss_id": head.global_mean(out.loss_id),
        "loss_g": head.global_mean(out.logs["loss_g"]),
        "grad_features": grad,
        "grad_features_id": grad_id,
        "grad_weight": head.grads().full(),
    }
    if impl == "reference":
        got["cos_theta"] = margin.scale * ReferenceClassifier(margin, head.weight).cosines(features)
    return {f"{name}_rank{rank}": value.detach().numpy() for name, value in got.items()}


KINDS = {"magface/magface_parallel": run_parallel}
