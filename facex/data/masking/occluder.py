"""`FaceMask`: the occluder that puts a mask on a face."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from facex.data.masking import cloth
from facex.data.masking.canonical import camera_axes, landmarks_of
from facex.data.masking.light import face_light
from facex.data.masking.templates import COLUMNS, ROWS, TEMPLATES, WORN, Surface, surface
from facex.data.native import native
from facex.data.occluders.assets import Assets, builtin_assets, check_assets
from facex.data.occluders.base import Occluder, check_image
from facex.entrypoints import nearest
from facex.errors import ConfigError

_DRAWS = 14  # uniform numbers a mask
_WORN = tuple(WORN)
_WORN_BOUNDS = np.cumsum((0.84, 0.08, 0.05))  # right, nose out, upper lip out; the rest under the mouth
_COLORS = tuple(cloth.COLORS)
_COLOR_BOUNDS = np.cumsum([share for share, _ in cloth.COLORS.values()])[:-1]
_INNER = np.arange(COLUMNS * ROWS).reshape(ROWS, COLUMNS)[2:-2:2, 3:-3:2].reshape(-1)  # vertices well inside the cloth
_CENTRE = COLUMNS * (ROWS // 2) + COLUMNS // 2  # the vertex in the middle
SAMPLES = 2  # a pixel and direction


class FaceMask(Occluder):
    """A face mask, warped onto the face by its landmarks and lit like it.

    `templates`: some of surgical, cloth, cup, folded, duckbill; unset: all, equally often. `colored`: the share of masks
    of one colour (white 0.4, blue 0.4, black 0.1, green 0.1); the others are textured. `assets`: RGBA textures that are
    stretched over the mask from edge to edge, transparent where there is a hole; given, all masks take them, unless
    `colored` says otherwise. Without landmarks the picture is taken for an aligned ArcFace crop.
    """

    name = "mask"

    def __init__(
        self,
        assets: Assets | Sequence[Assets] | None = None,
        templates: Sequence[str] | None = None,
        colored: float | None = None,
    ) -> None:
        names = [template.name for template in TEMPLATES]
        for name in templates or ():
            if name not in names:
                raise ConfigError(f"there is no mask template {name!r}{nearest(name, names)}")
        if templates is not None and not templates:
            raise ConfigError("FaceMask: templates names no template")
        self.colored = (0.7 if assets is None else 0.0) if colored is None else colored
        if not 0 <= self.colored <= 1:
            raise ConfigError(f"FaceMask: colored={self.colored} is no share, it must lie in 0..1")
        self._numbers = [names.index(name) for name in templates or names]
        lists = [builtin_assets("texture")] if assets is None else check_assets(assets, self.name)
        self._textures = [texture for each in lists for texture in each]
        self._composed = functools.lru_cache(maxsize=256)(self._compose)

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """See the class; the picture is an aligned crop."""
        self.cover_on(image, mask, rng, None)

    def draw_on(
        self, image: np.ndarray, rng: np.random.RandomState, landmarks: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `draw`, on a face with `landmarks` [68, 2] (iBUG order) or [5, 2] (eyes, nose, mouth corners), x and y in
        pixels. Raises DataError for landmarks that are equal, not finite, or all outside of the picture."""
        image = np.array(image, order="C")
        check_image(image)
        mask = np.zeros(image.shape[:2], np.uint8)
        self.cover_on(image, mask, rng, landmarks)
        return image, mask

    def cover_on(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState, landmarks: np.ndarray | None
    ) -> None:
        """See `Occluder.cover_on` and `draw_on`. Always draws the same number of numbers."""
        u = rng.random_sample(_DRAWS)
        number = self._numbers[int(u[0] * len(self._numbers))]
        worn = _WORN[int(np.searchsorted(_WORN_BOUNDS, u[1], side="right"))]
        shape = surface(number, worn, cloth.TEXTURE_HEIGHT)
        points68 = _template(*mask.shape) if landmarks is None else landmarks_of(landmarks, *mask.shape)
        vertices = _place(shape, points68, u[8:12])
        gain = 0.94 + 0.12 * u[4]
        tint = gain * (0.97 + 0.06 * u[5]), gain, gain * (0.97 + 0.06 * u[6])
        lamp = (*_direction(u[12], u[13]), 0.5, 0.58, *face_light(image, vertices[_INNER, :2]), *tint)
        native().render_mesh(
            image,
            mask,
            vertices,
            shape.uv,
            shape.triangles,
            self._texture(number, u),
            np.array(lamp, np.float32),
            SAMPLES,
        )

    def _texture(self, number: int, u: np.ndarray) -> np.ndarray:
        if u[2] < self.colored:
            return cloth.plain(number, _COLORS[int(np.searchsorted(_COLOR_BOUNDS, u[3], side="right"))])
        texture: np.ndarray = self._composed(number, int(u[3] * len(self._textures)))
        return texture

    def _compose(self, number: int, texture: int) -> np.ndarray:
        return cloth.compose(number, *cloth.fit_texture(self._textures[texture]))


@functools.lru_cache(maxsize=16)
def _template(height: int, width: int) -> np.ndarray:
    return landmarks_of(None, height, width)


def _direction(across: float, down: float) -> tuple[float, float, float]:
    """Unit vector towards a lamp in front, within 25 degrees to either side, from a little below to well above."""
    x, y = 0.9 * (across - 0.5), -0.55 * down + 0.05
    length = math.sqrt(x * x + y * y + 1)
    return x / length, y / length, 1 / length


def _place(shape: Surface, points68: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """Vertices float32 [V, 3] in the picture: on the face, then moved, turned and scaled by a little."""
    axes = camera_axes(points68)
    at = shape.weights @ points68
    centre = at[_CENTRE]
    dx, dy, turn, grow = (jitter - 0.5).tolist()
    c, s = (1 + 0.08 * grow) * math.cos(0.08 * turn), (1 + 0.08 * grow) * math.sin(0.08 * turn)
    spin = np.array([(c, s), (-s, c)])
    shift = centre - centre @ spin + 2.5 * dx * axes[:2, 0] + 5.0 * dy * axes[:2, 1]
    out = np.empty((len(at), 3), np.float32)
    out[:, :2] = at @ spin + shift
    out[:, 2] = shape.canonical @ axes[2]
    return out
