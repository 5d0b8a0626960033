"""Synthetic occluders with exact masks: shapes, glasses, scarves, objects, hands, blocks and face masks.

An `Occluder` covers a part of one picture; `Occlude` applies a policy of them to training batches. Every occluder draws
its numbers from the `numpy.random.RandomState` it is given, in a fixed order, so a seeded generator repeats it.

    image, mask = Rectangle().draw(image, np.random.RandomState(1))   # mask: uint8 [H, W], 255 occluded, 0 clean
    glasses = Glasses([load_folder("rims"), load_folder("shades")])   # RGBA PNG files of one's own; unset: ours
    Occlude(policy="ms1m")                                            # a transform of the training data

Placement and sizes follow MSML (Yuan, Zheng, Dong, AAAI 2022); `gauss_map` is its map of light and texture.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Block": "block",
    "Ellipse": "shapes",
    "Glasses": "paste",
    "Hand": "blend",
    "NoOcclusion": "base",
    "OCCLUDERS": "policy",
    "Occlude": "occlude",
    "Occluder": "base",
    "POLICIES": "policy",
    "Polygon": "shapes",
    "RealObject": "paste",
    "Rectangle": "shapes",
    "Scarf": "paste",
    "Texture": "blend",
    "builtin_assets": "assets",
    "gauss_map": "gauss",
    "load_folder": "assets",
    "make_occluder": "policy",
}

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
