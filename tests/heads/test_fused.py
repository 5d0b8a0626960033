"""The head's optimizer step inside the backward pass: torch.optim's numbers on any number of ranks, checkpoints, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from facex.errors import ConfigError
from facex.heads import CosFace, MarginHead, Softmax
from facex.heads.collectives import Ranks
from tests.golden.distributed import run_ranks
from tests.heads import brute, cases

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3, "nesterov": True},
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("margin", "name"), [("magface", "sgd"), ("cosface", "adamw")])
def test_equals_torch_optim(margin: str, name: str, world_size: int) -> None:
    weight, grads = cases.batch()[2].requires_grad_(), []
    options = {key: value for key, value in OPTIMIZERS[name].items() if key != "name"}
    optimizer = (torch.optim.AdamW if name == "adamw" else torch.optim.SGD)([weight], **options)
    for step in range(3):
        x, labels, _ = cases.batch(6, seed=step)
        optimizer.param_groups[0]["lr"] = options["lr"] * (1 - 0.2 * step)
        optimizer.zero_grad()
        brute.loss(margin, x.requires_grad_(), weight, labels)[0].backward()
        grads.append(x.grad)
        optimizer.step()
    ranks = run_ranks(world_size, "tests.heads.cases:train_fused", margin, OPTIMIZERS[name])
    torch.testing.assert_close(torch.cat([rank["weight"] for rank in ranks]), weight.detach())
    torch.testing.assert_close(torch.cat([rank["grad_x"] for rank in ranks]), torch.stack(grads, 1))


@pytest.mark.parametrize("name", ["arcface_st", "curricular", "adaface", "uniface"])
def test_every_margin_steps_as_without_it(name: str) -> None:
    heads = [cases.make_head(name, fused_step=fused) for fused in (True, False)]
    for head in heads:
        head.build_optimizer("sgd", lr=0.1)
    for seed in range(3):
        x, labels, _ = cases.batch(seed=seed)
        for head in heads:
            head(x, labels).loss.backward()
            head.step()
    torch.testing.assert_close(heads[0].weight, heads[1].weight)
    for ours, theirs in zip(heads[0].margin.buffers(), heads[1].margin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_plain_softmax_with_bias() -> None:
    x, labels, weight = cases.batch(unlabelled=False)
    heads = [
        MarginHead(Softmax(), 8, 13, dtype=torch.float64, group="alone", normalize=False, bias=True, fused_step=fused)
        for fused in (True, False)
    ]
    for head in heads:
        head.load_weight(weight)
        head.build_optimizer("adamw", lr=0.01)
        for _ in range(2):
            head(x, labels).loss.backward()
            head.step()
    torch.testing.assert_close(heads[0].weight, heads[1].weight)
    torch.testing.assert_close(heads[0].bias, heads[1].bias)


def as_rank(rank: int, size: int) -> Ranks:
    """A rank that never communicates: enough for saving and loading."""
    ranks = Ranks("alone")
    ranks.rank, ranks.size = rank, size
    return ranks


def trained(head: MarginHead, seeds: range) -> MarginHead:
    for seed in seeds:
        x, labels, _ = cases.batch(seed=seed)
        head(x, labels).loss.backward()
        head.step()
    return head


def bf16_head(ranks: Ranks | str = "alone", seed: int = 5, fused: bool = True) -> MarginHead:
    head = cases.make_head("cosface", group=ranks, fused_step=fused, seed=seed)
    head.build_optimizer("sgd", lr=0.1, momentum_dtype="bf16")
    return head


def test_bf16_momentum_goes_on_bit_for_bit_and_over_any_number_of_shards(tmp_path: Path) -> None:
    whole = trained(bf16_head(), range(2))
    whole.save(tmp_path / "one")
    for rank in range(3):  # to three shards and back
        part = bf16_head(as_rank(rank, 3), seed=99)
        part.load(tmp_path / "one")
        part.save(tmp_path / "three")
    with safe_open(tmp_path / "three" / "head-00002-of-00003.safetensors", "pt") as file:
        assert file.get_tensor("momentum_buffer").dtype == torch.bfloat16
    resumed = bf16_head(seed=99)
    resumed.load(tmp_path / "three")
    for head in (whole, resumed):
        trained(head, range(2, 4))
    assert torch.equal(whole.weight, resumed.weight)
    assert whole.optimizer is not None
    assert resumed.optimizer is not None
    assert torch.equal(whole.optimizer.moments["momentum_buffer"], resumed.optimizer.moments["momentum_buffer"])
    other = trained(bf16_head(seed=6), range(4))
    assert not torch.equal(other.weight, resumed.weight)


def test_bf16_momentum_without_the_fused_step_rounds_alike() -> None:
    fused, window = (trained(bf16_head(fused=f), range(3)) for f in (True, False))
    torch.testing.assert_close(fused.weight, window.weight, rtol=1e-4, atol=1e-5)  # a bit of the momentum may differ
    sparse = cases.make_head("cosface", sample_rate=0.5, sparse_update=True)
    sparse.build_optimizer("sgd", lr=0.1, momentum_dtype="bf16")
    assert bool(trained(sparse, range(2)).weight.isfinite().all())


def test_what_needs_the_gradient_is_refused() -> None:
    x, labels, _ = cases.batch()
    head = cases.make_head("cosface", fused_step=True)
    with pytest.raises(ConfigError, match="call build_optimizer before"):
        head(x, labels).loss.backward()
    head = cases.make_head("cosface", fused_step=True)
    head.build_optimizer("sgd", lr=0.1)
    head.step()  # a window without a backward pass
    head.skip()
    for call in (head.grads, head.grads_finite, head.grad_sq_norm):
        with pytest.raises(ConfigError, match="keeps no gradient"):
            call()
    head(x, labels).loss.backward()
    for call in (head.skip, head.zero_grad):
        with pytest.raises(ConfigError, match="dropping it needs fused_step=False"):
            call()
    with pytest.raises(ConfigError, match=r"second backward pass before step\(\)"):
        head(x, labels).loss.backward()
    with pytest.raises(ConfigError, match=r"factor 0\.5"):
        head.step(clip_coef=0.5)
    with pytest.raises(ConfigError, match=r"rate 0.1, not 0.3: call prepare_step"):
        head.step(0.3)
    head.step(0.1)
    with pytest.raises(ConfigError, match=r"not with sample_rate 0\.5"):
        cases.make_head("cosface", fused_step=True, sample_rate=0.5)
    with pytest.raises(ConfigError, match=r"not with label_smoothing 0\.1"):
        cases.make_head("cosface", fused_step=True, label_smoothing=0.1)
    with pytest.raises(ConfigError, match="momentum_dtype must be fp32 or bf16"):
        cases.make_head("cosface").build_optimizer(momentum_dtype="fp8")


def test_without_gradient_nothing_moves() -> None:
    head = cases.make_head("cosface", fused_step=True)
    head.build_optimizer("sgd", lr=0.1)
    x, labels, weight = cases.batch()
    with torch.no_grad():
        head(x, labels)
    head.step()
    assert torch.equal(head.weight, weight)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", [{}, {"fused_step": True}, {"sample_rate": 0.5}], ids=str)
def test_a_step_on_the_device_never_waits(options: dict[str, Any]) -> None:
    """PyTorch raises where the host would wait for the device."""
    head = MarginHead(CosFace(), 64, 5000, group="alone", device="cuda", precision="bf16", **options)
    head.build_optimizer("sgd", lr=0.1)
    labels = torch.arange(32, device="cuda")
    losses = []
    for step in range(3):
        x = torch.randn(32, 64, device="cuda", requires_grad=True)
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # libraries wake up in the first
        try:
            out = head(x, labels)
            out.loss.backward()
            head.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        losses.append(out.loss.detach())
    assert all(math.isfinite(float(loss)) for loss in losses)
