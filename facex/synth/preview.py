"""A contact sheet of rendered faces and their labels, to be looked at."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from facex.files import atomic_path
from facex.synth.renderer import Renderer, SynthFace

# One colour (RGB) a class of the parsing map, background first
COLORS = np.array(
    [
        (0, 0, 0), (230, 180, 150), (255, 120, 60), (60, 60, 255), (60, 220, 220), (40, 150, 220), (120, 80, 20),
        (190, 140, 40), (255, 90, 200), (200, 60, 255), (120, 0, 0), (255, 60, 90), (200, 20, 60), (90, 60, 40),
        (60, 200, 60), (255, 255, 0), (255, 200, 0), (200, 150, 110), (60, 90, 160),
    ],
    np.uint8,
)  # fmt: skip


def overlay(face: SynthFace, zoom: int = 2) -> np.ndarray:
    """The picture with its parsing map, the occluded area in red stripes, and its landmarks: uint8 RGB."""
    size = face.image.shape[0] * zoom
    big = cv2.resize(face.image, (size, size), interpolation=cv2.INTER_CUBIC)
    labels = cv2.resize(face.parsing, (size, size), interpolation=cv2.INTER_NEAREST)
    hidden = cv2.resize(face.occlusion, (size, size), interpolation=cv2.INTER_NEAREST) > 0
    mixed = cv2.addWeighted(big, 0.45, COLORS[labels], 0.55, 0.0)
    stripes = (np.add.outer(np.arange(size), np.arange(size)) // 4) % 2 == 0
    mixed[hidden & stripes] = (255, 0, 0)
    for points, color, radius in ((face.landmarks68, (255, 255, 255), 1), (face.landmarks5, (0, 255, 0), 2)):
        for x, y in (points + 0.5) * zoom - 0.5:
            cv2.circle(mixed, (round(float(x)), round(float(y))), radius, color, -1, cv2.LINE_AA)
    return mixed


def contact_sheet(renderer: Renderer, identities: int = 6, images: int = 8, zoom: int = 2) -> np.ndarray:
    """Two rows an identity, the pictures above and their labels below: uint8 RGB."""
    rows = []
    for identity in range(identities):
        faces = renderer.render_batch((identity, k) for k in range(images))
        size = renderer.size * zoom
        rows.append(np.hstack([cv2.resize(f.image, (size, size), interpolation=cv2.INTER_CUBIC) for f in faces]))
        rows.append(np.hstack([overlay(f, zoom) for f in faces]))
    return np.vstack(rows)


def write_preview(path: str | os.PathLike[str], renderer: Renderer, identities: int = 6, images: int = 8) -> None:
    """Write a contact sheet as PNG or JPEG, by the file's suffix."""
    sheet = contact_sheet(renderer, identities, images)
    suffix = Path(path).suffix.lower()
    done, data = cv2.imencode(suffix if suffix in (".png", ".jpg", ".jpeg") else ".png", sheet[:, :, ::-1])
    if not done:
        raise RuntimeError("OpenCV cannot encode the contact sheet on this machine")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
