"""All margins by name. A plugin's margin is a subclass of `Margin`, listed in the entry-point group `facex.margins`."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points

from facex.errors import ConfigError, PluginError
from facex.heads.adaptive import AdaFace, CurricularFace
from facex.heads.angular import ArcFace, Combined, CosFace, Softmax
from facex.heads.base import Margin, Rule
from facex.heads.magnitude import MagFace

__all__ = [
    "AdaFace",
    "ArcFace",
    "Combined",
    "CosFace",
    "CurricularFace",
    "MagFace",
    "Margin",
    "Rule",
    "Softmax",
    "available",
    "get",
]

_CORE: dict[str, type[Margin]] = {
    cls.__name__: cls for cls in (Softmax, ArcFace, CosFace, Combined, CurricularFace, AdaFace, MagFace)
}


def available() -> dict[str, str]:
    """Every margin: {short name: what it is}. Those of plugins are listed without importing them."""
    names = {name: (cls.__doc__ or "").strip().splitlines()[0] for name, cls in _CORE.items()}
    for point in entry_points(group="facex.margins"):
        names.setdefault(point.name, f"from {point.dist.name if point.dist else 'a plugin'}: {point.value}")
    return names


def get(name: str) -> type[Margin]:
    """The margin class of this short name; ConfigError with the nearest names when there is none."""
    if name in _CORE:
        return _CORE[name]
    for point in entry_points(group="facex.margins"):
        if point.name == name:
            try:
                return point.load()
            except Exception as error:
                raise PluginError(f"margin {name!r} ({point.value}) fails to import: {error}") from error
    near = difflib.get_close_matches(name, available(), n=3, cutoff=0.4) or sorted(available())
    raise ConfigError(f"there is no margin {name!r}; did you mean {', '.join(near)}?")
