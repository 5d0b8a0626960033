"""Goldens of Partial FC: real ranks, the published sampling, and the optimizer step on the shard."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from facex.heads import MarginHead
from facex.heads.margin_head import LOSS_CAP
from tests.golden import margin_specs
from tests.golden.case import Case, Variant
from tests.golden.distributed import run_ranks
from tests.golden.kinds.losses import golden_weight


def run_pfc(case: Case) -> list[Variant]:
    """The case on `world_size` ranks, through the fused op and through its reference."""
    weight = golden_weight(case)[0].numpy()
    variants = []
    for impl in ("fused", "reference"):
        world = case.params["world_size"]
        ranks = run_ranks(world, "tests.golden.kinds.pfc:rank_outputs", case.params, case.inputs, weight, impl)
        variants.append(Variant({key: value for rank in ranks for key, value in rank.items()}, impl))
    return variants


def rank_outputs(
    rank: int, world_size: int, params: dict[str, Any], inputs: dict[str, np.ndarray], weight: np.ndarray, impl: str
) -> dict[str, Any]:
    """What one rank sees."""
    head = _head(params, weight, impl, world_size)
    r = f"_rank{rank}"
    outputs: dict[str, Any] = {
        f"num_local{r}": head.shard.size,
        f"class_start{r}": head.shard.start,
        f"num_sample{r}": head.sampler.num_sample,
    }
    steps = [""] if "features" in inputs else [str(i) for i in range(params["steps"])]
    for i in steps:
        _set_draw(head, inputs.get(f"perm{i}{r}"))
        outputs |= {f"{name}{i}{r}": value for name, value in _step(head, inputs, i, params).items()}
    return outputs


def _head(params: dict[str, Any], weight: np.ndarray, impl: str, world_size: int) -> MarginHead:
    margin = margin_specs.insightface(params["margin"], params)
    head = MarginHead(
        margin,
        weight.shape[1],
        weight.shape[0],
        group="alone" if world_size == 1 else None,
        sample_rate=params["sample_rate"],
        ignore_unlabelled=bool(params.get("ignore_unlabelled", False)),
        loss_cap=LOSS_CAP,
        seed=params.get("perm_generator_seed") or 0,
        impl=impl,
    )
    head.load_weight(torch.from_numpy(weight))
    optimizer = params.get("optimizer")
    if optimizer:
        names = ("name", "lr", "momentum", "weight_decay", "nesterov", "betas", "eps")
        options = {name: optimizer[name] for name in names if name in optimizer}
        head.build_optimizer(**options, sparse_update=not optimizer.get("dense", True))
    return head


def _set_draw(head: MarginHead, draw: np.ndarray | None) -> None:
    if draw is not None:
        head.sampler.uniform = lambda n: torch.from_numpy(draw.copy())


def _step(head: MarginHead, inputs: dict[str, np.ndarray], i: str, params: dict[str, Any]) -> dict[str, Any]:
    rows = head.ranks.mine
    x = rows(torch.from_numpy(inputs[f"features{i}"])).clone().requires_grad_()
    out = head(x, rows(torch.from_numpy(inputs[f"labels{i}"])).reshape(-1))
    out.loss.backward()
    assert x.grad is not None
    got = {"loss": head.global_mean(out.loss), "grad_features": x.grad, "grad_weight": head.grads().full()}
    if head.sampler.last_index is not None:
        got["weight_index"] = head.sampler.last_index
    got |= {name: buffer.clone() for name, buffer in head.margin.named_buffers()}
    if head.optimizer is not None:
        head.step()
        got["weight_after"] = head.weight.detach().clone()
    else:
        head.zero_grad()
    return {name: value.detach().numpy() for name, value in got.items()}


KINDS = {"magface/pfc": run_pfc, "magface/pfc_adaface": run_pfc}
