"""Margins by the names of `brute`, a batch that every test shares, and the functions that run on real ranks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facex.heads import (
    AdaFace,
    ArcFace,
    Combined,
    CosFace,
    CurricularFace,
    ElasticFace,
    MagFace,
    Margin,
    MarginHead,
    Softmax,
    UniFace,
)

CLASSES, DIM, BATCH = 13, 8, 10

MARGINS: dict[str, Callable[[], Margin]] = {
    "arcface_st": lambda: ArcFace(),
    "arcface_exact": lambda: ArcFace(margin_grad="exact", past_pi="sine"),
    "cosface": lambda: CosFace(30, 0.35),
    "cosface_filter": lambda: CosFace(64, 0.4, interclass_filter=0.2),
    "combined_true": lambda: Combined(64, 1.1, 0.3, 0.2, combined="true", margin_grad="exact"),
    "magface": lambda: MagFace(),
    "mag_cosface": lambda: MagFace(l_margin=0.35, lambda_g=150, form="cos"),
    "curricular": lambda: CurricularFace(),
    "adaface": lambda: AdaFace(),
    "adaface_cvlface": lambda: AdaFace(form="cvlface"),
    "normface": lambda: Softmax(16),
    "elastic": lambda: ElasticFace(std=0.0),
    "uniface": lambda: UniFace(16, 0.3, 0.2),
}


def batch(rows: int = BATCH, seed: int = 0, unlabelled: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [rows, DIM], labels [rows], class centres [CLASSES, DIM], float64. Some rows are near their centre."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(CLASSES, DIM, generator=g, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (rows,), generator=g)
    x = torch.randn(rows, DIM, generator=g, dtype=torch.float64)
    x[::2] = x[::2] * 0.5 + weight[labels[::2]]
    x *= torch.rand(rows, 1, generator=g, dtype=torch.float64) * 20 + 2
    if unlabelled and rows > 3:
        labels[3] = -1
    return x, labels, weight


def make_head(name: str, world_size: int = 1, impl: str = "fused", **options: Any) -> MarginHead:
    """A float64 head with the shared class centres."""
    options.setdefault("group", "alone" if world_size == 1 else None)
    head = MarginHead(MARGINS[name](), DIM, CLASSES, dtype=torch.float64, impl=impl, **options)
    head.load_weight(batch()[2])
    return head


def run_once(head: MarginHead, x: Tensor, labels: Tensor, weights: Tensor | None = None) -> dict[str, Any]:
    """Loss, rows and gradients of this rank's share of a global batch; gradients are those of the global mean."""
    mine = head.ranks.mine
    x = mine(x).clone().requires_grad_()
    out = head(x, mine(labels), None if weights is None else mine(weights))
    out.loss.backward()
    assert x.grad is not None
    return {
        "loss": float(head.global_mean(out.loss)),
        "per_row": out.per_row,
        "grad_x": x.grad / head.ranks.size,
        "grad_w": head.grads().full(),
        "classes": None if head.sampler.last_index is None else head.sampler.last_index + head.shard.start,
    }


def grid(rank: int, world_size: int, rate: float, impl: str) -> dict[str, dict[str, Any]]:
    """Every margin on this rank."""
    x, labels, _ = batch()
    heads = {name: make_head(name, world_size, impl, sample_rate=rate) for name in MARGINS}
    return {name: run_once(head, x, labels) for name, head in heads.items()}


def mixup(rank: int, world_size: int) -> dict[str, Any]:
    x, labels, weights = mixup_batch()
    return run_once(make_head("cosface", world_size), x, labels, weights)


def mixup_batch() -> tuple[Tensor, Tensor, Tensor]:
    x, first, _ = batch()
    second = first.roll(1)
    second[5] = first[5]
    share = torch.linspace(0.1, 1.0, len(x), dtype=torch.float64)  # the last row's second label has weight 0
    return x, torch.stack([first, second], 1), torch.stack([share, 1 - share], 1)


def smoothed(rank: int, world_size: int, margin: Margin, rate: float, mixed: bool) -> dict[str, Any]:
    """Label smoothing 0.1, plain softmax with bias where the margin is Softmax; one label a row, or two."""
    plain = isinstance(margin, Softmax)
    options = {"normalize": not plain, "bias": plain, "sample_rate": rate, "label_smoothing": 0.1}
    head = MarginHead(margin, DIM, CLASSES, dtype=torch.float64, group="alone" if world_size == 1 else None, **options)
    x, labels, weight = batch()
    head.load_weight(weight)
    if head.bias is not None:
        head.bias.data.copy_(torch.linspace(-1, 1, CLASSES)[head.shard.start : head.shard.stop])
    if not mixed:
        return {**run_once(head, x, labels), "grad_b": head.grads().bias}
    x, both, shares = mixup_batch()
    return run_once(head, x, both, shares)


def foreign(rank: int, world_size: int, name: str, rate: float) -> dict[str, Any]:
    """JHMFR's rows of other ranks."""
    x, labels, _ = batch(unlabelled=False)
    head = make_head(name, world_size, sample_rate=rate, foreign_label="official")
    return {**run_once(head, x, labels), **{n: b.clone() for n, b in head.margin.named_buffers()}}


def edge_ranks(rank: int, world_size: int) -> dict[str, Any]:
    """Odd situations that must neither hang nor give NaN: loss and gradients of each."""
    x, labels, weight = batch()
    results: dict[str, Any] = {}
    no_rows = labels.clone()
    no_rows[: len(x) // 2] = -1
    results["rank 0 has no labelled row"] = run_once(make_head("arcface_exact", world_size), x, no_rows)
    results["nobody has one"] = run_once(make_head("magface", world_size), x, torch.full_like(labels, -1))
    results["one shard has every label"] = run_once(make_head("cosface", world_size), x, labels.clamp(max=5))
    head = make_head("cosface", world_size, sample_rate=0.0)
    results["empty sample"] = run_once(head, x, labels.clamp(min=0, max=5))
    head = MarginHead(MARGINS["cosface"](), DIM, 1, dtype=torch.float64)
    head.load_weight(weight[:1])
    results["empty shard"] = run_once(head, x, torch.zeros_like(labels))
    head.build_optimizer()
    head.step()
    results["score"] = head.score(head.ranks.mine(x), head.ranks.mine(torch.zeros_like(labels)))
    return results


def train(rank: int, world_size: int, optimizer: dict[str, Any], rate: float, steps: int = 3) -> dict[str, Any]:
    """A few steps with accumulation 2 under a loss scale; returns this rank's shard and its moments."""
    head = make_head("cosface", world_size, sample_rate=rate)
    head.build_optimizer(**optimizer)
    norms, samples = [], []
    for step in range(steps):
        window = []
        for micro in range(2):
            x, labels, _ = batch(seed=10 * step + micro)
            out = head(head.ranks.mine(x), head.ranks.mine(labels))
            (out.loss * 0.5 * 128).backward()
            window.append(head.sampler.last_index)
        samples.append(window)
        norms.append(float(head.grad_sq_norm(loss_scale=128)))
        head.step(loss_scale=128, clip_coef=0.5)
    return {"weight": head.weight.detach().clone(), "norms": norms, "samples": samples, "start": head.shard.start}


def train_fused(rank: int, world_size: int, name: str, optimizer: dict[str, Any]) -> dict[str, Any]:
    """Three fused steps of six rows, with another rate each: the shard, and the gradients of the embeddings."""
    head = make_head(name, world_size, fused_step=True)
    head.build_optimizer(**optimizer)
    grads = []
    for step in range(3):
        lr = optimizer["lr"] * (1 - 0.2 * step)
        x, labels, _ = batch(6, seed=step)
        x = head.ranks.mine(x).clone().requires_grad_()
        head.prepare_step(lr)
        head(x, head.ranks.mine(labels)).loss.backward()
        head.step(lr)
        assert x.grad is not None
        grads.append(x.grad / head.ranks.size)
    assert head.window.dense is None
    return {"weight": head.weight.detach().clone(), "grad_x": torch.stack(grads, 1)}


def elastic(rank: int, world_size: int) -> dict[str, Any]:
    """Two micro-steps of a margin with draws."""
    head = MarginHead(
        ElasticFace(16, 0.3, 0.1), DIM, CLASSES, dtype=torch.float64, group="alone" if world_size == 1 else None
    )
    x, labels, weight = batch()
    head.load_weight(weight)
    run_once(head, x, labels)
    head.zero_grad()
    return run_once(head, x, labels)


def score(rank: int, world_size: int) -> tuple[Tensor, Tensor, Tensor]:
    x, labels, _ = batch()
    head = make_head("cosface", world_size)
    return head.score(head.ranks.mine(x), head.ranks.mine(labels))


def save(rank: int, world_size: int, folder: str | None = None) -> None:
    """Train two steps and save."""
    head = make_head("adaface", world_size, sample_rate=0.5, sampler_seeds="per_rank")
    head.build_optimizer("adamw", lr=0.01)
    for seed in range(2):
        x, labels, _ = batch(seed=seed)
        head(head.ranks.mine(x), head.ranks.mine(labels)).loss.backward()
        head.step()
    head.save(Path(folder or tempfile.mkdtemp()))


def official(rank: int, world_size: int, options: dict[str, Any]) -> dict[str, Any]:
    """MagFace with official quirks."""
    x, labels, _ = batch(unlabelled=False)
    return run_once(make_head("magface", world_size, **options), x, labels)
