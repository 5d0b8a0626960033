"""Two real ranks: mixup, odd situations, official quirks, scores and optimizer steps equal one rank and torch.optim."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.golden.distributed import run_ranks
from tests.heads import brute, cases


def on_two(function: str, *args: Any) -> list[Any]:
    return run_ranks(2, f"tests.heads.cases:{function}", *args)


def joined(ranks: list[dict[str, Any]], name: str) -> Tensor:
    return torch.cat([rank[name] for rank in ranks])


@pytest.mark.parametrize("world_size", [1, 2])
def test_mixup(world_size: int) -> None:
    ranks = run_ranks(world_size, "tests.heads.cases:mixup")
    x, labels, shares = cases.mixup_batch()
    weight = cases.batch()[2].requires_grad_()
    x.requires_grad_()
    soft = torch.zeros(len(x), cases.CLASSES, dtype=torch.float64)
    for k in range(2):
        here = labels[:, k] >= 0
        soft[here] = soft[here].scatter_add(1, labels[here, k : k + 1], shares[here, k : k + 1])
    soft = soft / soft.sum(1, keepdim=True)  # the share of an unlabelled partner goes to the other label
    logits = 30 * (F.normalize(x) @ F.normalize(weight).T - 0.35 * (soft > 0).double())
    loss = -(soft * logits.log_softmax(1)).sum(1).mean()
    loss.backward()
    assert ranks[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    torch.testing.assert_close(joined(ranks, "grad_x"), x.grad)
    torch.testing.assert_close(joined(ranks, "grad_w"), weight.grad)


def test_odd_situations_neither_hang_nor_give_nan() -> None:
    ranks = on_two("edge_ranks")
    x, labels, weight = cases.batch()
    half = labels.clone()
    half[: len(x) // 2] = -1
    expected = {
        "rank 0 has no labelled row": brute.loss("arcface_exact", x, weight, half)[0],
        "nobody has one": torch.tensor(0.0),
        "one shard has every label": brute.loss("cosface", x, weight, labels.clamp(max=5))[0],
        "empty shard": torch.tensor(0.0),
    }
    for name, loss in expected.items():
        assert ranks[0][name]["loss"] == pytest.approx(float(loss), abs=1e-9), name
    for rank in ranks:
        for name, result in rank.items():
            values = result if name == "score" else [result["grad_x"], result["grad_w"], torch.tensor(result["loss"])]
            assert name == "score" or all(bool(torch.isfinite(value).all()) for value in values), name
    assert ranks[1]["empty shard"]["grad_w"].shape == (0, cases.DIM)
    target, other, index = ranks[0]["score"]
    assert bool((other == -math.inf).all())
    assert index.tolist() == [-1] * 5
    torch.testing.assert_close(target, F.cosine_similarity(x[:5], weight[:1]))


@pytest.mark.parametrize("world_size", [1, 2])
def test_score(world_size: int) -> None:
    ranks = run_ranks(world_size, "tests.heads.cases:score")
    target, other, index = (torch.cat(parts) for parts in zip(*ranks, strict=True))
    x, labels, weight = cases.batch()
    cos = F.normalize(x) @ F.normalize(weight).T
    hot = labels[:, None] == torch.arange(cases.CLASSES)
    torch.testing.assert_close(target, torch.where(hot, cos, 0.0).sum(1))
    best = cos.masked_fill(hot, -2).max(1)
    torch.testing.assert_close(other, best.values)
    assert index.tolist() == best.indices.tolist()


OPTIMIZERS = {
    "sgd": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3},
    "nesterov": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3, "nesterov": True},
    "plain": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
}


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_steps_equal_torch_optim(name: str, world_size: int, rate: float) -> None:
    """Three steps of two micro-batches each under a loss scale, with clipping, equal torch.optim on all of W."""
    ranks = run_ranks(world_size, "tests.heads.cases:train", OPTIMIZERS[name], rate)
    weight = cases.batch()[2].requires_grad_()
    options = {key: value for key, value in OPTIMIZERS[name].items() if key != "name"}
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
    optimizer = kind([weight], **options)
    for step in range(3):
        optimizer.zero_grad()
        for micro in range(2):
            x, labels, _ = cases.batch(seed=10 * step + micro)
            samples = [rank["samples"][step][micro] for rank in ranks]
            starts = [rank["start"] for rank in ranks]
            classes = torch.cat([s + start for s, start in zip(samples, starts, strict=True)]) if rate < 1 else None
            (brute.loss("cosface", x, weight, labels, classes)[0] * 0.5).backward()
        assert weight.grad is not None
        norm = float(weight.grad.square().sum())
        assert all(rank["norms"][step] == pytest.approx(norm, rel=1e-9) for rank in ranks)
        weight.grad *= 0.5
        optimizer.step()
    torch.testing.assert_close(joined(ranks, "weight"), weight.detach())


@pytest.mark.parametrize("option", ["official_norm_grad", "official_grad_scale", "official_regulariser"])
def test_official_quirks(option: str) -> None:
    ranks = on_two("official", {option: True})
    x, labels, weight = cases.batch(unlabelled=False)
    x.requires_grad_()
    norm = x.norm(dim=1)
    foreign = (labels < 7) != (torch.arange(len(x)) < 5)  # 13 classes: rank 0 has 0..6; it has rows 0..4
    seen = torch.where(foreign, norm.detach(), norm) if option == "official_norm_grad" else norm
    hot = labels[:, None] == torch.arange(cases.CLASSES)
    cos = F.normalize(x) @ F.normalize(weight).T
    loss = F.cross_entropy(brute.magface(cos, seen, hot), labels)
    regulariser = brute.regulariser("magface", norm).mean()
    (loss + regulariser * (2 if option == "official_regulariser" else 1)).backward()
    factor = 0.5 if option == "official_grad_scale" else 1.0
    torch.testing.assert_close(joined(ranks, "grad_x"), x.grad * factor)
    assert ranks[0]["loss"] == pytest.approx(float((loss + regulariser).detach()), rel=1e-9)
