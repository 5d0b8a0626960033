"""Backbones by name: a decorator registers them, entry points of the group `facex.backbones` add those of plugins.

A backbone is a module that maps float32 images [B, 3, H, W] to embeddings float32 [B, D] and has the attributes
`embedding_size` (D) and `input_size` ((height, width) it was built for).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from facex.entrypoints import entries, find, nearest
from facex.errors import ConfigError
from facex.models.common import as_size
from facex.models.sizes import SIZES

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Backbone:
    """A registered architecture: `build(**preset, **options)` makes it."""

    name: str
    build: Callable[..., nn.Module]
    summary: str
    preset: dict[str, Any] = field(default_factory=dict)
    distribution: str = "facex-train"

    def __call__(self, **options: Any) -> nn.Module:
        """Build the network.

        Raises:
            ConfigError: an option that this architecture does not have, or a value it refuses.
        """
        parameters = inspect.signature(self.build).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for option in options:
                if option not in parameters:
                    raise ConfigError(f"backbone {self.name!r} has no option {option!r}{nearest(option, parameters)}")
        return self.build(**{**self.preset, **options})


@dataclass(frozen=True)
class BackboneInfo:
    """A row of `facex info --backbones`."""

    name: str
    parameters: int
    flops: int  # floating-point operations of one image, forward (a multiplication and an addition count as two)
    embedding_size: int
    input_size: tuple[int, int]
    summary: str
    distribution: str


_registry: dict[str, Backbone] = {}
# The modules of the core that register backbones; imported when the registry is first asked.
_core_modules = (
    "facex.models.iresnet",
    "facex.models.ir",
    "facex.models.mobilefacenet",
    "facex.models.vit",
    "facex.models.resface",
)


def register_backbone(name: str, summary: str, **preset: Any) -> Callable[[Builder], Builder]:
    """Register a class or function that builds a backbone under `name`, with arguments preset; may be stacked."""

    def decorate(build: Builder) -> Builder:
        if name in _registry and _registry[name].build is not build:
            raise ConfigError(f"backbone {name!r} is registered twice: {_registry[name].build} and {build}")
        _registry[name] = Backbone(name, build, summary, preset)
        return build

    return decorate


def backbone_names() -> list[str]:
    """Every name that `create_backbone` accepts: the core's, those registered so far, those of installed plugins."""
    _import_core()
    return sorted(set(_registry) | {e.name for e in entries("facex.backbones")})


def core_backbones() -> list[str]:
    """Names of the backbones that the core brings."""
    _import_core()
    return sorted(name for name, backbone in _registry.items() if backbone.build.__module__ in _core_modules)


def get_backbone(name: str) -> Backbone:
    """The architecture of that name; a plugin's is imported now.

    Raises:
        ConfigError: no such name; the nearest ones are named.
        PluginError: the plugin that adds it fails to import, or two add it.
    """
    _import_core()
    if name in _registry:
        return _registry[name]
    entry = find("facex.backbones", name)
    if entry is None:
        raise ConfigError(f"there is no backbone {name!r}{nearest(name, backbone_names())}")
    build = entry.load()
    if name not in _registry:  # a plain builder; a decorated one has registered itself while it was imported
        _registry[name] = Backbone(name, build, (inspect.getdoc(build) or "").split("\n")[0], {}, entry.distribution)
    return _registry[name]


def create_backbone(name: str, **options: Any) -> nn.Module:
    """Build the backbone `name`, with options of its own (embedding_size, input_size, ...)."""
    return get_backbone(name)(**options)


def describe_backbone(name: str, **options: Any) -> BackboneInfo:
    """Parameters and FLOPs: the core's registered networks from a table, everything else measured."""
    backbone = get_backbone(name)
    if options or name not in core_backbones() or name not in SIZES:
        return measure_backbone(name, **options)
    preset = {**_defaults(backbone.build), **backbone.preset}
    height, width = as_size(preset["input_size"])
    parameters, flops = SIZES[name]
    return BackboneInfo(
        name, parameters, flops, preset["embedding_size"], (height, width), backbone.summary, backbone.distribution
    )


def measure_backbone(name: str, **options: Any) -> BackboneInfo:
    """Parameters and FLOPs, counted on the meta device: no memory, no arithmetic (but a second for 100 blocks)."""
    from torch.utils.flop_counter import FlopCounterMode

    backbone = get_backbone(name)
    with torch.device("meta"):
        module = backbone(**options).eval()
        height, width = tuple(module.input_size)  # type: ignore[arg-type]
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            out = module(torch.zeros(1, 3, height, width))
    parameters = sum(p.numel() for p in module.parameters())
    return BackboneInfo(
        name,
        parameters,
        counter.get_total_flops(),
        int(out.shape[1]),
        (height, width),
        backbone.summary,
        backbone.distribution,
    )


def _defaults(build: Callable[..., nn.Module]) -> dict[str, Any]:
    parameters = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _import_core() -> None:
    for module in _core_modules:
        importlib.import_module(module)
