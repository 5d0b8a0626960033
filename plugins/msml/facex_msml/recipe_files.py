"""A `config.yaml` of MSML's repository as a recipe of `facex train`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from facex.errors import ConfigError
from facex_msml.recipes import PER, OfficialConfig, derive

CHECK_EVERY = 8000  # steps between validations, as published
LOG_EVERY = 50


def training_config(
    config: OfficialConfig, gpus: int = 4, data: str | None = None, resume: int = 0, occlude: bool = True
) -> dict[str, Any]:
    """The recipe, as YAML holds it, of `config` on so many GPUs. `data`: RecordIO folder, unset: data/DATASET.

    resume: the epoch at which a run of the published code goes on (`--resume E`): its weights and its classifier are read,
    the rates are those of that epoch, the momentum starts anew. occlude: False for a run without occluders (`--occ`).
    Raises ConfigError for an epoch that is not in the recipe, and for no GPU.
    """
    recipe = derive(config)
    if gpus < 1:
        raise ConfigError(f"{gpus} GPUs: at least one is needed")
    if not 0 <= resume < recipe.num_epoch:
        raise ConfigError(f"resume {resume}: the recipe has epochs 0 to {recipe.num_epoch - 1}")
    batch = config.batch_size * gpus
    rate = recipe.lr * batch / PER * recipe.lr_factor(resume)
    folder = data or f"data/{config.dataset}"
    content: dict[str, Any] = {
        "method": {"class_path": "MSML", "init_args": method_arguments(config, occlude)},
        "data": {"path": folder, "num_classes": recipe.num_classes, "transforms": _transforms(config, occlude)},
        "trainer": {
            "output": f"runs/{config.output_prefix}_{config.exp_id}",
            "global_batch": batch,
            "epochs": recipe.num_epoch - resume,
            **_precision(config),
            "clip": {"norm": recipe.clip, "scope": "joint"},
            "seed": 1,
            "log_every": LOG_EVERY,
        },
        "optimizer": {
            "name": "sgd",
            "lr": float(f"{rate:.9g}"),
            "momentum": recipe.momentum,
            "weight_decay": recipe.weight_decay,
        },
        "schedule": {
            "kind": "step",
            "milestones": [drop - resume for drop in recipe.drops() if drop > resume],
            "gamma": recipe.gamma,
        },
    }
    if "classification" in recipe.parts:
        content["head"] = {"lr_scale": _ratio(recipe.parts["classification"], recipe.lr)}
    if recipe.val_targets:
        bins = [f"{folder}/{name}.bin" for name in recipe.val_targets]
        content["evaluation"] = {"bins": bins, "every": CHECK_EVERY}
    if resume:
        official = f"out/{config.output_prefix}_{config.exp_id}/backbone.pth"
        content["init_from"] = [{"path": official, "head": True}]
    return content


def method_arguments(config: OfficialConfig, occlude: bool = True) -> dict[str, Any]:
    """Arguments of MSML for a config."""
    recipe = derive(config)
    arguments: dict[str, Any] = {"margin": _margin(config), "backbone": config.frb_type}
    if config.frb_type == "not_used":
        raise ConfigError("frb_type not_used has a recipe, but no network")
    if any(config.fm_layers):
        names = ("kernel_size", "resblocks", "activation", "arith")
        arguments["fm"] = dict(zip(names, config.fm_params, strict=True))
    if not all(config.fm_layers):
        arguments["fm_layers"] = list(config.fm_layers)
    if not config.use_osb:
        arguments["use_osb"] = False
    scales = {part: _ratio(lr, recipe.lr) for part, lr in recipe.parts.items() if part != "classification"}
    kept = {"osb": config.use_osb, "fm_ops": any(config.fm_layers)}
    if scales := {part: scale for part, scale in scales.items() if kept[part]}:
        arguments["lr_scales"] = scales
    if recipe.pretrained:
        arguments["warm_start"] = True
    if not occlude:
        arguments["light"] = False
    peer = asdict(config.peer_params)
    if peer.pop("use_ori"):
        weights = {"kd_weight": 1.0} | ({"decoder_weight": 1.0} if peer["use_decoder"] else {})
        arguments["peer"] = {**peer, **weights}
    return arguments


def _margin(config: OfficialConfig) -> Any:
    if config.header_type == "Softmax":
        return {"class_path": "Softmax"}
    values = dict(zip(("s", "m", "a", "k"), config.header_params, strict=True))
    kept = {name: value for name, value in values.items() if name in ("s", "m") or values["k"]}
    return {"class_path": config.header_type, "init_args": kept}


def _transforms(config: OfficialConfig, occlude: bool) -> list[dict[str, Any]]:
    """Occluders by the policy of the data set, and flips of 6 in 10; without occluders half of the pictures are flipped."""
    if not occlude:
        return [{"class_path": "HorizontalFlip"}]
    policy = "casia" if config.dataset == "webface" else "ms1m"
    steps = [
        {"class_path": "Occlude", "init_args": {"policy": policy}},
        {"class_path": "HorizontalFlip", "init_args": {"p": 0.6}},
    ]
    original: dict[str, Any] = {"class_path": "facex_msml.preparation.KeepOriginal"}
    return [original, *steps] if config.peer_params.use_ori else steps


def _precision(config: OfficialConfig) -> dict[str, Any]:
    if not config.fp16:
        return {"precision": "fp32"}
    return {
        "precision": "fp16",
        "fp16_initial_scale": config.batch_size,
        "fp16_growth_interval": 100,
    }


def _ratio(rate: float, base: float) -> float:
    return float(f"{rate / base:.9g}")
