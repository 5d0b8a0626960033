"""The published training settings: what a `config.yaml` of MSML's repository stands for, and its learning rates by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from facex.entrypoints import nearest
from facex.errors import ConfigError

CLASSES = {"ms1m-retinaface-t2": 93431, "webface": 10572}
NETWORKS = ("iresnet18", "iresnet34", "iresnet50", "lightcnn")
HEADS = ("Softmax", "AMCosFace", "AMArcFace")
PER = 512  # samples that the published learning rates are for
GREY_SIDE, COLOR_SIDE = 128, 112


@dataclass(frozen=True)
class Peer:
    """`peer_params`: the teacher on clean pictures and the terms that learn from it; all off where it is missing."""

    use_ori: bool = False
    use_conv: bool = False
    mask_trans: str = "conv"
    use_decoder: bool = False


@dataclass(frozen=True)
class OfficialConfig:
    """A `config.yaml` of the official repository. `batch_size` is per GPU; `header_params` are s, m, a, k."""

    dataset: str
    frb_type: str
    header_type: str
    fp16: bool = True
    batch_size: int = 128
    osb_type: str = "unet"
    use_osb: bool = True
    fm_layers: tuple[int, ...] = (1, 1, 1, 1)
    fm_params: tuple[Any, ...] = (3, 2, "tanh", "add")
    peer_params: Peer = field(default_factory=Peer)
    header_params: tuple[float, ...] = (64.0, 0.5, 0.0, 0.0)
    exp_id: int = 1
    output_prefix: str = "msml"

    def __post_init__(self) -> None:
        for key, allowed in (("dataset", tuple(CLASSES)), ("header_type", HEADS), ("osb_type", ("unet",))):
            if getattr(self, key) not in allowed:
                raise ConfigError(f"{key} is one of {', '.join(allowed)}, not {getattr(self, key)!r}")
        if self.frb_type not in (*NETWORKS, "not_used"):
            raise ConfigError(f"frb_type is one of {', '.join(NETWORKS)}, not {self.frb_type!r}")
        for key, count in (("fm_layers", 4), ("fm_params", 4), ("header_params", 4)):
            if len(getattr(self, key)) != count:
                raise ConfigError(f"{key} needs {count} values, not {list(getattr(self, key))}")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is at least 1, not {self.batch_size}")

    @property
    def grey(self) -> bool:
        """LightCNN reads grey pictures of 128 pixels, the others colour of 112."""
        return self.frb_type == "lightcnn"


def read_config(path: str | Path) -> OfficialConfig:
    """A `config.yaml`; ConfigError naming the file and the key that is missing, unknown or wrong."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a config.yaml that can be read: {error}") from error
    try:
        return official_config(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def official_config(content: Mapping[str, Any]) -> OfficialConfig:
    """The same from plain data."""
    if not isinstance(content, Mapping):
        raise ConfigError("not a mapping of options")
    values = dict(content)
    for key in ("dataset", "frb_type", "header_type"):
        if key not in values:
            raise ConfigError(f"{key} is missing")
    known = OfficialConfig.__dataclass_fields__
    if unknown := [key for key in values if key not in known]:
        raise ConfigError(f"unknown key {unknown[0]!r}{nearest(str(unknown[0]), list(known))}")
    peer = values.get("peer_params") or {}
    if not isinstance(peer, Mapping) or (set(peer) - set(Peer.__dataclass_fields__)):
        raise ConfigError(f"peer_params has {', '.join(Peer.__dataclass_fields__)}; found {peer!r}")
    values["peer_params"] = Peer(**peer)
    for key in ("fm_layers", "fm_params", "header_params"):
        if key in values:
            if not isinstance(values[key], list | tuple):
                raise ConfigError(f"{key} is a list, not {values[key]!r}")
            values[key] = tuple(values[key])
    return OfficialConfig(**values)


@dataclass(frozen=True)
class Recipe:
    """Derived settings. Rates are for 512 samples a step; `parts` are those of single parts by their prefix, the others
    have `lr`. The rate is multiplied by `gamma` at the end of epoch m - 1 of each milestone m (epochs from 1)."""

    num_classes: int
    num_epoch: int
    milestones: tuple[int, ...]
    gamma: float
    lr: float
    parts: Mapping[str, float]
    pretrained: bool
    val_targets: tuple[str, ...]
    momentum: float = 0.9
    weight_decay: float = 5e-4
    lambda1: int = 1
    clip: float = 5.0
    warmup_epoch: int = -1

    def lr_factor(self, epoch: int) -> float:
        """Factor on every rate in an epoch (from 0)."""
        return float(self.gamma ** sum(m - 1 <= epoch for m in self.milestones))

    def drops(self) -> list[int]:
        """The epochs, counted from 0, at whose start the rate falls."""
        return [m - 1 for m in self.milestones]


_VALIDATION = ("lfw", "cfp_fp", "agedb_30")


def derive(config: OfficialConfig) -> Recipe:
    """The recipe of a config. CASIA-WebFace with iResNet-18/34, or iResNet-50 under another head than AMCosFace, stops the
    published code with an error; here it takes the 34-epoch recipe that all of CASIA-WebFace had before November 2022."""
    classes = CLASSES[config.dataset]
    if config.dataset != "webface":
        return Recipe(classes, 25, (11, 17, 22), 0.1, 0.1, {"osb": 0.01}, False, _VALIDATION)
    if config.grey:
        parts = {"osb": 0.01, "fm_ops": 0.1, "classification": 0.08}
        return Recipe(classes, 35, (15,), 0.3162, 0.008, parts, True, ())
    if config.frb_type == "iresnet50" and config.header_type == "AMCosFace":
        parts = {"osb": 0.01, "fm_ops": 0.1, "classification": 0.1}
        return Recipe(classes, 40, (10, 25), 0.1, 0.01, parts, True, ())
    return Recipe(classes, 34, (20, 28, 32), 0.1, 0.1, {"osb": 0.01}, False, ())


def settings(config: OfficialConfig) -> dict[str, Any]:
    """Everything that the published code derives from a config, under its names."""
    recipe = derive(config)
    side = GREY_SIDE if config.grey else COLOR_SIDE
    return {
        **{k: v for k, v in asdict(recipe).items() if k not in ("milestones", "gamma", "parts", "clip")},
        "val_targets": list(recipe.val_targets),
        "is_gray": config.grey,
        "out_size": (side, side),
        "use_norm": not config.grey,
        "dim_feature": 256 if config.grey else 512,
        "peer_params": asdict(config.peer_params),
        "output": f"out/{config.output_prefix}_{config.exp_id}",
        "nw": 32,
    }
