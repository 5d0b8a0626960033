"""The trainer's smaller parts, each alone: loss scale, unscaling hooks, clipping, plan, guard."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from facex.errors import ConfigError, TrainingError
from facex.methods import Group
from facex.train.clipping import Clipper
from facex.train.config import ClipConfig, DataConfig, StagnationConfig, TrainConfig, TrainerConfig
from facex.train.context import Clock, Shared, StepContext
from facex.train.launch import Ranks
from facex.train.nonfinite import LossWatch
from facex.train.precision import FrozenNetwork, GradientUnscaler, LossScale, autocast_forward
from facex.train.setup import make_plan
from facex.train.stagnation import StagnationGuard
from tests.train.tiny import TinyRecogniser

CPU = torch.device("cpu")


def test_the_loss_scale_waits_until_no_window_is_open() -> None:
    scale = LossScale("fp16", 16, growth_interval=2, minimum=4)
    scale.overflowed()
    assert scale.value == 16
    scale.settle()
    assert scale.value == 8
    scale.applied()
    scale.applied()
    scale.settle()
    assert scale.value == 16
    for _ in range(2):
        scale.overflowed()
    scale.settle()
    assert scale.value == 4
    scale.overflowed()
    with pytest.raises(TrainingError, match="loss scale"):
        scale.settle()
    plain = LossScale("bf16", 16, 2, 4)
    plain.overflowed()
    plain.settle()
    assert plain.value == 1


def test_gradients_are_unscaled_and_an_overflow_noted() -> None:
    scale = LossScale("fp16", 8, 100, 1)
    layer = nn.Linear(3, 1, bias=False)
    hooks = GradientUnscaler(list(layer.parameters()), scale, CPU)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    (layer(x).sum() * scale.value).backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, x)
    assert hooks.found.item() == 0
    layer.weight.grad = None
    (layer(x * torch.tensor([1.0, math.inf, 1.0])).sum() * scale.value).backward()
    assert hooks.found.item() > 0
    assert torch.isfinite(layer.weight.grad).all()
    hooks.clear()
    hooks.note(torch.tensor(math.nan))
    assert hooks.found.item() > 0
    hooks.remove()


def test_autocast_forward_leaves_names_and_can_be_undone() -> None:
    layer = nn.Linear(2, 2)
    undo = autocast_forward(layer, "bf16", "cpu")
    assert layer(torch.zeros(1, 2)).dtype == torch.bfloat16
    assert set(layer.state_dict()) == {"weight", "bias"}
    undo()
    assert layer(torch.zeros(1, 2)).dtype == torch.float32


def test_a_frozen_network_has_its_own_mode_and_precision() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    frozen = FrozenNetwork(net, "eval", "bf16", CPU)
    net.train()
    frozen.set_mode()
    assert not net.training
    out = frozen(torch.ones(1, 2, requires_grad=True))
    assert out.dtype == torch.bfloat16
    assert not out.requires_grad


def grads(*values: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(v))) for v in values]
    for p, v in zip(parameters, values, strict=True):
        p.grad = torch.tensor(v)
    return parameters


def test_clipping_scopes() -> None:
    a, b = grads([3.0, 0.0], [0.0, 4.0])
    assert Clipper("n", ClipConfig(1.0), [Group([a, b])], zero=0).clip(None) == 1.0
    assert torch.cat([a.grad, b.grad]).norm() == pytest.approx(1.0, rel=1e-4)  # type: ignore[list-item]
    a, b = grads([3.0, 0.0], [0.0, 4.0])
    coefficient = Clipper("n", ClipConfig(1.0, "joint"), [Group([a, b])], zero=0).clip(lambda: torch.tensor(144.0))
    assert coefficient == pytest.approx(1 / 13, rel=1e-4)
    assert a.grad is not None
    assert a.grad[0] == pytest.approx(3 / 13, rel=1e-4)
    a, b = grads([3.0, 0.0], [0.0, 0.5])
    Clipper("n", ClipConfig(1.0, "per_tensor"), [Group([a, b])], zero=0).clip(None)
    assert a.grad is not None and b.grad is not None
    assert a.grad[0] == pytest.approx(1.0, rel=1e-4)
    assert b.grad[1] == 0.5
    a, b = grads([3.0], [4.0])
    Clipper("n", ClipConfig(1.0), [Group([a], clip_scope="none"), Group([b])], zero=0).clip(None)
    assert a.grad is not None and a.grad[0] == 3.0


@pytest.mark.parametrize(
    ("clip", "group"),
    [
        (ClipConfig(1.0, "joint"), Group([])),
        (ClipConfig(1.0, "per_tensor"), Group([])),
        (ClipConfig(1.0), Group([], clip_scope="per_tensor")),
        (ClipConfig(), Group([], frozen_until=3)),
    ],
)
def test_what_zero_flattens_is_refused_above_level_0(clip: ClipConfig, group: Group) -> None:
    Clipper("n", clip, [group], zero=0)
    with pytest.raises(ConfigError, match="ZeRO"):
        Clipper("n", clip, [group], zero=1)


def plan(ranks: int, **trainer: object) -> object:
    values = {"global_batch": 64, "steps": 10, **trainer}
    config = TrainConfig(TinyRecogniser(), DataConfig("x"), TrainerConfig(**values))  # type: ignore[arg-type]
    return make_plan(config, Ranks(0, ranks, 0, CPU), 1000)


def test_the_plan_follows_from_the_global_batch() -> None:
    made = plan(2, micro_batch=8)
    assert (made.accumulation, made.batches_per_epoch, made.total_batches) == (4, 15, 10)  # type: ignore[attr-defined]
    assert plan(4).micro_batch == 16  # type: ignore[attr-defined]
    assert plan(1, steps=None, epochs=2).total_batches == 30  # type: ignore[attr-defined]
    for bad, words in (
        ({"micro_batch": 24}, "multiple"),
        ({"epochs": 1}, "either"),
        ({"steps": None}, "either"),
        ({"global_batch": 2048}, "fewer"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan(2, **bad)


def test_the_guard_stops_a_plateau_after_a_spike() -> None:
    guard = StagnationGuard(StagnationConfig(window=2, spike=1.5, patience=2))
    for loss in (4.0, 3.0, 2.0, 2.0, 9.0, 2.0):
        guard.note(torch.tensor(loss), 1, 0.1)
    guard.note(torch.tensor(1.0), 7, 0.1)
    guard.note(torch.tensor(1.0), 8, 0.1)
    for step in (9, 10, 11):
        guard.note(torch.tensor(7.0), step, 0.1)
    with pytest.raises(TrainingError, match=r"step 12.*0\.1"):
        guard.note(torch.tensor(7.0), 12, 0.1)


def test_a_bad_loss_on_a_gpu_is_found_before_anything_is_saved(tmp_path: Path) -> None:
    watch = LossWatch(Ranks(0, 1, 0, CPU), tmp_path)
    watch.note("net", torch.tensor(1.0), torch.tensor([1, 2]))
    assert not watch.close("net", 1, None)
    watch.note("net", torch.tensor(math.inf), torch.tensor([3, 4]))
    with pytest.raises(TrainingError, match="3, 4"):
        watch.close("net", 2, None)
    assert (tmp_path / "nonfinite_step_2.json").exists()


def test_the_context_knows_means_schedules_and_draws() -> None:
    method = TinyRecogniser()
    shared = Shared({}, None, Clock(total_steps=10, step=5), Ranks(0, 1, 0, CPU), 3, method.schedules())
    context = StepContext(shared, None)
    values = torch.tensor([1.0, 2.0, math.nan])
    assert context.mean(values, torch.tensor([True, True, False])) == 1.5
    assert context.mean(values, torch.zeros(3, dtype=torch.bool)) == 0
    assert context.value("decay") == pytest.approx(0.055)
    with pytest.raises(ConfigError, match="decay"):
        context.value("dekay")
    with pytest.raises(ConfigError, match="no batch"):
        context.uniform("x")
