"""Face masks laid over faces: templates on a small mesh that follows the landmarks, coloured or textured, lit like the
face.

    image, mask = FaceMask().draw(image, np.random.RandomState(1))                       # an aligned ArcFace crop
    image, mask = FaceMask().draw_on(image, np.random.RandomState(1), landmarks)         # 68 or 5 points
    MaskFaces(p=0.1)                                                                     # a transform of the data

`csrc/occluders/mesh.h` renders any textured triangles with a depth buffer, so other mask models can be drawn by it.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {"FaceMask": "occluder", "MaskFaces": "transform", "TEMPLATES": "templates", "landmarks_of": "canonical"}

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
