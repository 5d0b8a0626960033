"""Face data: RecordIO, data sets, writers, loaders and transforms.

The common names come from here; each is imported when it is first asked for, so that `import facex.data` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "DataWarning": "dataset",
    "FaceDataset": "dataset",
    "FaceSetWriter": "writer",
    "RecordFile": "recordio",
    "RecordWriter": "writer",
    "jpeg_backend": "native",
    "open_dataset": "dataset",
    "write_face_set": "writer",
}

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
