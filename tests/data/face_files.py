"""Small picture sets for the tests of the record path: smooth random pictures, written by OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from facex.data.writer import FaceSetWriter


def picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    """uint8 [height, width, 3] RGB, smooth, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(seed: int, height: int = 16, width: int = 16) -> bytes:
    """The picture as JPEG, encoded without facex."""
    ok, data = cv2.imencode(".jpg", picture(seed, height, width)[..., ::-1])
    assert ok
    return data.tobytes()


def decoded(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    """What a JPEG decoder must give for `jpeg(seed)`, uint8 [height, width, 3] RGB (OpenCV's answer)."""
    return cv2.imdecode(np.frombuffer(jpeg(seed, height, width), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def write_set(folder: Path, classes: int = 3, per_class: int = 4, layout: str = "insightface", size: int = 16) -> Path:
    """A face set in which sample i is `jpeg(i)` and its label i // per_class."""
    with FaceSetWriter(folder, classes, (size, size), layout=layout) as writer:  # type: ignore[arg-type]
        for i in range(classes * per_class):
            writer.add(jpeg(i, size, size), i // per_class)
    return folder


def write_image_folder(folder: Path, classes: int = 3, per_class: int = 2) -> Path:
    """Subfolders c0, c1, ... with pictures; sample i in sorted order is `jpeg(i)`."""
    for i in range(classes * per_class):
        path = folder / f"c{i // per_class}" / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    return folder
