"""The assets of FMA-3D (a mesh's index lists, the map of the face on the texture, mask templates), and a mask put on a
face.

The files are FaceX-Zoo's: `face_ind.txt` and `triangles.txt` (numbers separated by blanks), `uv_face_mask.png`, and one
RGBA picture per template. The position map of a face comes from a network that facex does not bring (PRNet, or any
other that gives float [size, size, 3] of x, y, z in pixels of the picture).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facex.data.masking_fma.render import render_mesh
from facex.data.masking_fma.texture import Randoms, masked_texture
from facex.errors import DataError


@dataclass(frozen=True)
class MeshMask:
    """What every mask shares. face: int64 [V], places of the mesh's vertices in the flattened position map; triangles
    int64 [3, T]; uv_face float64 [size, size], 0 outside the face."""

    face: np.ndarray
    triangles: np.ndarray
    uv_face: np.ndarray

    @staticmethod
    def load(folder: str | Path) -> MeshMask:
        """Read `face_ind.txt`, `triangles.txt` and `uv_face_mask.png` of a folder; DataError names what is wrong."""
        folder = Path(folder)
        face = _numbers(folder / "face_ind.txt").reshape(-1)
        triangles = _numbers(folder / "triangles.txt").reshape(-1, 3).T
        path = folder / "uv_face_mask.png"
        uv_face = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if uv_face is None:
            raise DataError(f"{path}: cannot be read as a picture")
        if face.min() < 0 or face.max() >= uv_face.size or triangles.min() < 0 or triangles.max() >= len(face):
            raise DataError(f"{folder}: face_ind.txt and triangles.txt name places that are not there")
        return MeshMask(face, triangles, (uv_face > 0).astype(np.float64))

    def template(self, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
        """An RGBA template: colours float64 [size, size, 3] RGB in 0..1, and alpha [size, size] inside the face."""
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
            raise DataError(f"{path}: not an RGBA picture")
        size = self.uv_face.shape
        if picture.shape[:2] != size:
            picture = cv2.resize(picture, size[::-1])
        rgba = picture[..., (2, 1, 0, 3)].astype(np.float64) / 255
        return rgba[..., :3], rgba[..., 3] * self.uv_face

    def put_on(
        self,
        image: np.ndarray,
        positions: np.ndarray,
        template: np.ndarray,
        alpha: np.ndarray,
        randoms: Randoms | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The face with the mask on, uint8 [H, W, 3], and where the mesh was drawn, bool [H, W].

        image uint8 [H, W, 3] RGB; positions float [size, size, 3]: x, y (pixels of the image) and depth of each place
        of the texture; template and alpha from `template`; randoms: vary the mask.
        """
        if positions.shape != (*self.uv_face.shape, 3):
            raise DataError(f"a position map of {positions.shape}; the assets are for {(*self.uv_face.shape, 3)}")
        pixels = image.astype(np.float64) / 255
        x, y = (positions[..., k].astype(np.float32) for k in (0, 1))
        texture = cv2.remap(pixels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0.0)
        texture = masked_texture(texture, template, alpha, randoms)
        colors = texture.reshape(-1, 3)[self.face].T
        vertices = positions.reshape(-1, 3)[self.face].T
        drawn, covered = render_mesh(vertices, colors, self.triangles, *image.shape[:2])
        return np.where(covered[..., None], np.rint(drawn.clip(0, 1) * 255), image).astype(np.uint8), covered


def _numbers(path: Path) -> np.ndarray:
    try:
        values = np.loadtxt(path, ndmin=1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as numbers: {error}") from error
    if not values.size or (values != np.floor(values)).any():
        raise DataError(f"{path}: whole numbers are wanted")
    return values.astype(np.int64)
