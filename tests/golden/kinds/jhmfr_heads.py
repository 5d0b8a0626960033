"""Goldens of JHMFR's margins, its Partial FC and its cross entropy over ranks, through the core's head."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facex.heads import CurricularFace, MagFace, Margin, MarginHead, Softmax
from facex.heads.foreign import last_class
from facex.heads.margin_head import LOSS_CAP
from facex.heads.reference import apply_rule
from tests.golden import margin_specs
from tests.golden.case import Case, Variant
from tests.golden.distributed import run_ranks

HEADS = {"combined_margin": "combined"}
OFFICIAL = {"magface", "curricularface"}  # heads that take a foreign row's -1 for a class


def margin_of(head: str, args: dict[str, Any], official_nan: bool, ranks: bool = False) -> Margin:
    """The margin class of an official head's arguments. `ranks`: running values per rank."""
    if args.get("t_init"):
        raise AssertionError("CurricularFace's running mean starts at 0")
    spec = {**args, "head": HEADS.get(head, head), "lambda_g": args.get("lambda", 0.0)}
    spec["t_momentum"] = args.get("momentum", 0.01)
    margin = margin_specs.jhmfr(spec, {"official_nan": official_nan})
    for part in margin.modules():
        if hasattr(part, "official_nan"):
            part.official_nan = official_nan
    if isinstance(margin, CurricularFace) and ranks:
        margin.statistics = "rank"
    return margin


def run_loss(case: Case) -> list[Variant]:
    """The calls in order, with the official infinite slopes; and as trained, where every gradient must be finite."""
    return [
        Variant(_calls(case, official_nan=True), "official slopes"),
        Variant(_calls(case, official_nan=False), "as trained", finite_only=True),
    ]


def _calls(case: Case, official_nan: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    margin: Margin | None = None
    for call in case.params["calls"]:
        if margin is None or not case.params.get("state"):
            margin = margin_of(call["head"], call["args"], official_nan)
        for name, value in _call(case, call, margin).items():
            _put(found, name, value)
    return {name: _joined(value) for name, value in found.items()}


def _call(case: Case, call: dict[str, Any], margin: Margin) -> dict[str, Any]:
    """One call's results under the names that the call gives them."""
    z = _read(case, call["logits"]).clone().requires_grad_()
    labels = _read(case, call["labels"]).long().reshape(-1, 1)
    norms = _read(case, call["norms"]) if "norms" in call else torch.ones(len(z), 1)
    norms = norms.reshape(-1, 1).expand(len(z), 1).clone().requires_grad_()
    values: dict[str, Any] = {}
    if "state_before" in call:
        values["state_before"] = margin.t.clone()
    kept = _keep_margin(margin)
    out = logits_of(margin, z, norms, labels, call["head"] in OFFICIAL)
    values["out"], values["state_after"] = out, getattr(margin, "t", None)
    if "cotangent" in call:
        wanted = {"grad_logits": z, "grad_margin": kept.get("margin"), "grad_norms_from_out": norms}
        wanted = {k: v for k, v in wanted.items() if k in call and v is not None}
        upstream = (out * _read(case, call["cotangent"])).sum()
        values |= dict(
            zip(wanted, torch.autograd.grad(upstream, list(wanted.values()), retain_graph=True), strict=True)
        )
    if "value" in call:
        values["value"] = F.cross_entropy(out, labels[:, 0])
        (values["grad_logits_of_value"],) = torch.autograd.grad(values["value"], z)
    if isinstance(margin, MagFace):
        weighted = margin.regulariser(norms)
        assert weighted is not None
        values |= {"margin": margin.margin(norms), "g": margin.g(norms), "reg": weighted.mean()}
        (values["grad_norms_from_reg"],) = torch.autograd.grad(weighted.mean(), norms)
    return {call[k]: v.detach().clone().numpy() for k, v in values.items() if k in call and v is not None}


def logits_of(margin: Margin, cosines: Tensor, norms: Tensor, labels: Tensor, official_foreign: bool) -> Tensor:
    """Logits [B, C] of the margin for given cosines, as the reference classifier makes them from embeddings."""
    if official_foreign:
        labels, _ = last_class(labels, labels, cosines.detach().T, None)
    if isinstance(margin, CurricularFace):  # whose rule expects cosines; those of a head cannot exceed 1, a case's do
        cosines = cosines.clamp(-1, 1)
    valid, place = labels >= 0, labels.clamp(min=0)
    cos = torch.where(valid, cosines.gather(1, place), 0.0)
    with torch.no_grad():
        seen = {"norm": norms[:, 0], "cos": cos, "valid": valid, "row": torch.arange(len(cos))}
        margin.observe(seen, lambda values: values)
        rule = margin.negatives(cos, valid)
    target = margin.target(cos, norms, torch.ones_like(cos))
    logits = margin.scale * apply_rule(rule, cosines)
    return torch.where(valid, logits.scatter(1, place, target), logits)


def _keep_margin(margin: Margin) -> dict[str, Tensor]:
    """Remember the margin's strength as it is used, to differentiate with respect to it."""
    kept: dict[str, Tensor] = {}
    if isinstance(margin, MagFace):
        original = type(margin).margin

        def remembered(norm: Tensor) -> Tensor:
            return kept.setdefault("margin", original(margin, norm))

        margin.margin = remembered  # type: ignore[method-assign]
    return kept


def _read(case: Case, name: str) -> Tensor:
    """An input by name; "a[k]" is entry k of its leading axis."""
    base, _, index = name.partition("[")
    array = case.inputs[base]
    return torch.from_numpy(np.asarray(array[int(index[:-1])] if index else array))


def _put(found: dict[str, Any], name: str, value: np.ndarray) -> None:
    base, _, index = name.partition("[")
    if index:
        found.setdefault(base, {})[int(index[:-1])] = value
    else:
        found[base] = value


def _joined(value: Any) -> Any:
    return np.stack([value[k] for k in sorted(value)]) if isinstance(value, dict) else value


# -- Partial FC over ranks --------------------------------------------------------------------------------------------
def run_pfc(case: Case) -> list[Variant]:
    """The case on its ranks, through the fused op and through its reference."""
    variants = []
    for impl in ("fused", "reference"):
        function = "tests.golden.kinds.jhmfr_heads:pfc_rank"
        ranks = run_ranks(case.params["world_size"], function, case.params, case.inputs, impl)
        variants.append(Variant({k: v for rank in ranks for k, v in rank.items()}, impl))
    return variants


def pfc_rank(rank: int, world: int, p: dict[str, Any], inputs: dict[str, np.ndarray], impl: str) -> dict[str, Any]:
    """What one rank sees over all steps."""
    head, tag = _head(rank, world, p, inputs, impl), f"_rank{rank}"
    steps: list[dict[str, np.ndarray]] = []
    for step in range(p["steps"]):
        if f"draw{tag}" in inputs and (draw := inputs[f"draw{tag}"][step]).min() >= 0:
            head.sampler.uniform = lambda n, draw=draw: torch.from_numpy(draw.copy())
        x = torch.from_numpy(inputs["embeddings"][rank, step]).clone().requires_grad_()
        out = head(x, torch.from_numpy(inputs["labels"][rank, step]).long())
        out.loss.backward()
        window, optimizer = head.grads(), head.optimizer
        assert optimizer is not None and x.grad is not None
        got = {"loss": head.global_mean(out.loss), "gemb": x.grad, "gw": window.full()}
        if head.sample_rate < 1:
            got |= {"index": window.index, "gw": window.rows}
        head.step()
        got |= {"weight": head.weight.data, **dict(zip("mv", optimizer.moments.values(), strict=False))}
        got |= {name: value for name, value in head.margin.named_buffers()}
        steps.append({name: value.detach().numpy().copy() for name, value in got.items() if value is not None})
    outputs = {}
    for name in steps[0]:
        outputs |= {f"{name}{i}{tag}": step[name] for i, step in enumerate(steps)}
        if len({step[name].shape for step in steps}) == 1:
            outputs[f"{name}{tag}"] = np.stack([step[name] for step in steps])
    return outputs


def _head(rank: int, world: int, p: dict[str, Any], inputs: dict[str, np.ndarray], impl: str) -> MarginHead:
    o = p["optimizer"]
    head = MarginHead(
        margin_of(p["head"], p["head_args"], official_nan=False, ranks=True),
        p["embedding_dim"],
        p["num_classes"],
        group="alone" if world == 1 else None,
        sample_rate=p["sample_rate"],
        loss_cap=LOSS_CAP,
        sparse_update=True,
        sampler_seeds="per_rank",
        seed=p["seed"],
        impl=impl,  # type: ignore[arg-type]
        official_regulariser=True,
        foreign_label="official" if p["head"] in OFFICIAL else "ignore",
        bias_correction="first" if str(o.get("bias_correction_step", "")).startswith("always") else "step",
    )
    if (head.shard.start, head.shard.size) != (p["class_start"][rank], p["num_local"][rank]):
        raise AssertionError(f"rank {rank} owns {head.shard}, the case gives it {p['class_start'][rank]}..")
    head.weight.data.copy_(torch.from_numpy(inputs[f"weight0_rank{rank}"]))
    names = ("name", "lr", "momentum", "nesterov", "weight_decay", "eps")
    options = {name: o[name] for name in names if name in o}
    if "betas" in o:
        options["betas"] = tuple(o["betas"])
    head.build_optimizer(**options)
    return head


# -- cross entropy over ranks -----------------------------------------------------------------------------------------
def run_dist_ce(case: Case) -> list[Variant]:
    """The cross entropy alone, on real ranks, through the fused op and through its reference."""
    variants = []
    for impl in ("fused", "reference"):
        function = "tests.golden.kinds.jhmfr_heads:dist_ce_rank"
        ranks = run_ranks(case.params["world_size"], function, case.params, case.inputs, impl)
        outputs = {name: np.stack([rank[name] for rank in ranks]) for name in ranks[0]}
        variants.append(Variant(outputs, impl))
    return variants


def dist_ce_rank(rank: int, world: int, p: dict[str, Any], inputs: dict[str, np.ndarray], impl: str) -> dict[str, Any]:
    """Logits as products of one-hot rows with the classes: row i of every rank is the batch's row i, so that each row
    counts once per rank and the mean stays what it is."""
    logits, labels = inputs["logits"][rank], inputs["labels"]
    batch, classes = logits.shape
    owner = np.argmax(labels >= 0, 0)
    label = np.where((labels >= 0).any(0), owner * classes + labels[owner, np.arange(batch)], -1)
    head = MarginHead(
        Softmax(s=1.0),
        batch,
        classes * world,
        group="alone" if world == 1 else None,
        normalize=False,
        ignore_unlabelled=False,
        loss_cap=-math.log(p["clamp"]),
        impl=impl,  # type: ignore[arg-type]
    )
    head.weight.data.copy_(torch.from_numpy(logits.T.copy()))
    out = head(torch.eye(batch).requires_grad_(), torch.from_numpy(label).long())
    (p["upstream"] * out.loss).backward()
    name = f"grad_times{p['upstream']:g}"
    return {"loss": head.global_mean(out.loss).detach().numpy(), name: head.grads().full().T.numpy()}


KINDS = {"jhmfr/loss": run_loss, "jhmfr/pfc": run_pfc, "jhmfr/dist_ce": run_dist_ce}
