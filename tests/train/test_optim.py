"""Optimizers from groups: every parameter once, decay and rate rules, the same steps as torch."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from facex.errors import ConfigError
from facex.methods.spec import Group
from facex.train.config import OptimizerConfig
from facex.train.optim import build_optimizer, check_groups, group_table, resolve_groups, set_rates


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.PReLU(3), nn.Linear(3, 2))


def whole(net: nn.Module, **options) -> list[Group]:
    return [Group(list(net.parameters()), **options)]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_steps_are_torchs(name):
    cfg = OptimizerConfig(name=name, lr=0.05, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-7, nesterov=name == "sgd")
    ours, peer = network(), network()
    if name == "sgd":
        expected = torch.optim.SGD(peer.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)
    else:
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        expected = kind(peer.parameters(), lr=0.05, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-7)
    optimizer = build_optimizer(cfg, whole(ours))
    for step in range(3):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        for net, opt in ((ours, optimizer), (peer, expected)):
            opt.zero_grad()
            net(x).square().sum().backward()
            opt.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), peer.parameters(), strict=True))


def test_no_decay_splits_one_dimensional_parameters():
    net = network()
    cfg = OptimizerConfig(weight_decay=0.2, no_decay="bias_norm")
    optimizer = build_optimizer(cfg, whole(net))
    decay, plain = optimizer.param_groups
    assert [tuple(p.shape) for p in decay["params"]] == [(3, 4), (2, 3)]
    assert decay["weight_decay"] == 0.2
    assert [tuple(p.shape) for p in plain["params"]] == [(3,), (3,), (2,)]
    assert plain["weight_decay"] == 0.0
    kept = build_optimizer(cfg, whole(net, weight_decay=0.7)).param_groups
    assert [g["weight_decay"] for g in kept] == [0.7]
    assert len(build_optimizer(replace(cfg, no_decay="none"), whole(net)).param_groups) == 1


def test_rates_scales_and_scheduled_decay():
    net = network()
    parts = list(net.parameters())
    groups = [
        Group(parts[:2], "stem", lr_scale=0.1),
        Group(parts[2:], "rest", weight_decay_schedule="decay"),
    ]
    optimizer = build_optimizer(OptimizerConfig(lr=1.0, weight_decay=0.5), groups)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 1.0]
    set_rates(optimizer.param_groups, 0.2, {"decay": 0.03}.__getitem__)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02, 0.2])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.03]
    with pytest.raises(ConfigError, match="'decay'"):
        set_rates(optimizer.param_groups, 0.2)
    table = group_table({"backbone": resolve_groups(OptimizerConfig(weight_decay=0.5), groups)})
    assert table[1] == ("backbone", "stem", "2", "15", "0.1", "0.5", "global", "-")
    assert table[2][5] == "schedule decay"


def test_faults_in_groups_are_named():
    net = network()
    parts = list(net.parameters())
    with pytest.raises(ConfigError, match=r"'backbone': in no group: 1.weight, 2.weight, 2.bias \(3\)"):
        check_groups("backbone", net, [Group(parts[:2])])
    with pytest.raises(ConfigError, match=r"in more than one group: 0.weight \(1\)"):
        check_groups("backbone", net, [Group(parts), Group(parts[:1])])
    with pytest.raises(ConfigError, match="1 parameters that are not the network's"):
        check_groups("backbone", net, [Group([*parts, nn.Parameter(torch.zeros(1))])])
    net[0].requires_grad_(False)
    check_groups("backbone", net, [Group(parts[2:])])
    check_groups("backbone", net, [Group(parts)])
    assert len(build_optimizer(OptimizerConfig(), [Group(parts)]).param_groups[0]["params"]) == 3


def test_bad_settings():
    net = network()
    for bad in (OptimizerConfig(name="lamb"), OptimizerConfig(no_decay="all")):
        with pytest.raises(ConfigError, match=r"unknown optimizer 'lamb'|no_decay is none or bias_norm"):
            build_optimizer(bad, whole(net))
    net.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(OptimizerConfig(), whole(net))
