"""Optimizers from parameter groups: rate scales, weight decay and no-decay rules; and the table that a run prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from facex.errors import ConfigError
from facex.methods.spec import Group


class OptimizerSettings(Protocol):
    """What this module reads of facex.train.config.OptimizerConfig."""

    name: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    no_decay: str


def check_groups(network: str, module: nn.Module, groups: Sequence[Group]) -> None:
    """Every trainable parameter of `module` is in exactly one group; ConfigError with the names of those that are
    not."""
    names = {id(p): n for n, p in module.named_parameters() if p.requires_grad}
    seen: set[int] = set()
    doubled, foreign = [], 0
    for parameter in (p for g in groups for p in g.parameters if p.requires_grad):
        if id(parameter) in seen:
            doubled.append(names.get(id(parameter), "?"))
        foreign += id(parameter) not in names
        seen.add(id(parameter))
    missing = [n for i, n in names.items() if i not in seen]
    faults = [
        f"{what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''} ({len(keys)})"
        for what, keys in (("in no group", missing), ("in more than one group", doubled))
        if keys
    ]
    if foreign:
        faults.append(f"{foreign} parameters that are not the network's")
    if faults:
        raise ConfigError(f"parameter groups of network {network!r}: {'; '.join(faults)}; correct its param_groups()")


def resolve_groups(cfg: OptimizerSettings, groups: Iterable[Group]) -> list[Group]:
    """The groups with their weight decay filled in and frozen parameters left out.

    `no_decay="bias_norm"` splits off parameters with at most one dimension (biases, norms, PReLU slopes) into groups
    without decay; a group that names its own decay, or a schedule for it, is left whole.
    """
    if cfg.no_decay not in ("none", "bias_norm"):
        raise ConfigError(f"no_decay is none or bias_norm, not {cfg.no_decay!r}")
    resolved = []
    for group in groups:
        parameters = [p for p in group.parameters if p.requires_grad]
        decay = cfg.weight_decay if group.weight_decay is None else group.weight_decay
        split = cfg.no_decay == "bias_norm" and group.weight_decay is None and group.weight_decay_schedule is None
        # ZeRO-3 leaves an empty shard in a parameter; its full shape is kept in ds_shape
        flat = [split and len(getattr(p, "ds_shape", p.shape)) <= 1 for p in parameters]
        for name, wanted, value in ((group.name, False, decay), (f"{group.name} (no decay)", True, 0.0)):
            part = [p for p, f in zip(parameters, flat, strict=True) if f is wanted]
            if part:
                resolved.append(replace(group, parameters=part, name=name, weight_decay=value))
    if not resolved:
        raise ConfigError("there is no trainable parameter; a network without any belongs into Method.frozen()")
    return resolved


def build_optimizer(cfg: OptimizerSettings, groups: Iterable[Group]) -> torch.optim.Optimizer:
    """SGD (L2 decay), Adam (L2 decay) or AdamW (decoupled decay) over `groups`.

    Each of its param_groups carries `name`, `lr_scale` and `weight_decay_schedule`; `set_rates` reads them at every
    step.
    """
    entries: list[dict[str, Any]] = [
        {
            "params": group.parameters,
            "name": group.name,
            "lr": cfg.lr * group.lr_scale,
            "lr_scale": group.lr_scale,
            "weight_decay": group.weight_decay,
            "weight_decay_schedule": group.weight_decay_schedule,
        }
        for group in resolve_groups(cfg, groups)
    ]
    if cfg.name == "sgd":
        return torch.optim.SGD(entries, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.nesterov)
    if cfg.name == "adam":
        return torch.optim.Adam(entries, lr=cfg.lr, betas=(cfg.betas[0], cfg.betas[1]), eps=cfg.eps)
    if cfg.name == "adamw":
        return torch.optim.AdamW(entries, lr=cfg.lr, betas=(cfg.betas[0], cfg.betas[1]), eps=cfg.eps)
    raise ConfigError(f"unknown optimizer {cfg.name!r}; there are sgd, adam and adamw")


def set_rates(param_groups: Iterable[dict[str, Any]], lr: float, value: Callable[[str], float] | None = None) -> None:
    """Put the rate of this step into every group (lr times its scale), and the scheduled weight decays: `value(name)`
    is the present value of a schedule of the method."""
    for group in param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        schedule = group.get("weight_decay_schedule")
        if schedule is not None:
            if value is None:
                raise ConfigError(f"weight decay follows schedule {schedule!r}, but there are no schedules here")
            group["weight_decay"] = value(schedule)


def group_table(groups_by_network: Mapping[str, Sequence[Group]]) -> list[tuple[str, ...]]:
    """Rows (network, group, tensors, parameters, rate scale, weight decay, clipping, frozen until), a header row
    first; for `facex.train.progress.format_table`. Give it resolved groups."""
    rows: list[tuple[str, ...]] = [
        ("network", "group", "tensors", "parameters", "lr x", "weight decay", "clip", "frozen until")
    ]
    for network, groups in groups_by_network.items():
        for g in groups:
            count = sum(getattr(p, "ds_numel", p.numel()) for p in g.parameters)
            decay = f"schedule {g.weight_decay_schedule}" if g.weight_decay_schedule else f"{g.weight_decay or 0:g}"
            until = str(g.frozen_until or "-")
            rows.append(
                (network, g.name, str(len(g.parameters)), f"{count:,}", f"{g.lr_scale:g}", decay, g.clip_scope, until)
            )
    return rows
