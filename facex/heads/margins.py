"""All margins by name. A plugin's margin is a subclass of `Margin`, listed in the entry-point group `facex.margins`."""

from __future__ import annotations

from facex.entrypoints import entries
from facex.heads.adaptive import AdaFace, CurricularFace
from facex.heads.angular import ArcFace, Combined, CosFace, Softmax
from facex.heads.base import Margin, Rule
from facex.heads.elastic import ElasticFace
from facex.heads.magnitude import MagFace
from facex.heads.threshold import UniFace

__all__ = [
    "AdaFace",
    "ArcFace",
    "Combined",
    "CosFace",
    "CurricularFace",
    "ElasticFace",
    "MagFace",
    "Margin",
    "Rule",
    "Softmax",
    "UniFace",
    "available",
]

_CORE: dict[str, type[Margin]] = {
    cls.__name__: cls
    for cls in (Softmax, ArcFace, CosFace, Combined, CurricularFace, AdaFace, MagFace, ElasticFace, UniFace)
}


def available() -> dict[str, str]:
    """Every margin: {short name: what it is}. Those of plugins are listed without importing them."""
    names = {name: (cls.__doc__ or "").strip().splitlines()[0] for name, cls in _CORE.items()}
    for entry in entries("facex.margins"):
        names.setdefault(entry.name, f"from {entry.distribution}: {entry.target}")
    return names
