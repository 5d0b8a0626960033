"""`Renderer`: a face of an identity, with the labels that its geometry implies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from facex.synth import layers as L
from facex.synth import paint
from facex.synth.cloud import Head
from facex.synth.expression import make_expression
from facex.synth.features import five_points, fixed_groups, landmarks68, moving_groups
from facex.synth.hair import (
    add_beard,
    add_hairline,
    disturb_hairline,
    hair_draws,
    make_hairdo,
    paint_back,
    paint_beard,
    paint_front,
    paint_hat,
    tuck_hairline,
)
from facex.synth.identity import Identity, make_identity
from facex.synth.light import Shot, make_light, make_shot
from facex.synth.native import render_layers
from facex.synth.occluders import KINDS, MASKS_FACE, WEIGHTS, occluder_draws, paint_occluder
from facex.synth.randoms import JITTER, POSE, Draws
from facex.synth.scene import (
    CLEAR,
    DARK,
    add_glasses,
    make_backdrop,
    paint_backdrop,
    paint_body,
    paint_glasses,
    scene_draws,
)
from facex.synth.surface import COLUMNS, ROWS, Pose, Surface, resample, silhouette

# The five points of the 112 px ArcFace crop: eyes, nose tip, mouth corners.
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
FRAME = 112
_CENTER = (55.5, 71.7)  # a misaligned crop turns and grows about this point
SAMPLES = 448  # labels are the majority of samples at least this dense across the picture


@dataclass
class SynthFace:
    """One picture and its labels; S is the size in pixels."""

    image: np.ndarray  # uint8 RGB [S, S, 3]
    landmarks5: np.ndarray  # float32 [5, 2] (x, y), pixel centres at integers; may lie outside of the picture
    landmarks68: np.ndarray  # float32 [68, 2], iBUG order
    parsing: np.ndarray  # uint8 [S, S], CelebAMask-HQ classes, "l" is the image's left
    occlusion: np.ndarray  # uint8 [S, S], 255: something is in front of the face
    flags: dict[str, bool] = field(default_factory=dict)  # masked, occluded, glasses, hat
    quality: int = 95  # JPEG quality that belongs to this picture
    identity: int = 0
    index: int = 0
    occluder: str = "none"

    def jpeg(self) -> bytes:
        """The picture as a JPEG file, compressed as strongly as its camera did."""
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(self.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, self.quality]
        )
        if not done:
            raise RuntimeError("OpenCV cannot encode JPEG on this machine")
        return data.tobytes()


@dataclass
class Person:
    """An identity with what is computed once for all its pictures."""

    identity: Identity
    surface: Surface
    albedo: np.ndarray
    head: Head


@lru_cache(maxsize=64)
def _person(seed: int, number: int) -> Person:
    identity = make_identity(seed, number)
    surface = Surface(identity)

    fixed = fixed_groups(identity, surface)
    add_hairline(fixed, identity, surface)
    add_beard(fixed, identity, surface)
    add_glasses(fixed, identity, surface, identity.sunglasses, DARK)
    if identity.glasses is not None:
        add_glasses(fixed, identity, surface, identity.glasses, CLEAR)
    head = Head(surface, lambda expression: moving_groups(identity, expression), fixed, identity.mouth["y"])
    return Person(identity, surface, paint.face_albedo(identity, surface), head)


class Renderer:
    """Draws faces: `render(identity, index)` is a pure function of (seed, identity, index), whatever the size.

    Another size is the same geometry sampled on another grid; coordinates scale as (p + 0.5) * size / 112 - 0.5.
    """

    def __init__(self, seed: int = 0, size: int = FRAME) -> None:
        if not 16 <= size <= 4096:
            raise ValueError(f"size must be 16 to 4096 pixels, not {size}")
        self.seed, self.size = int(seed), int(size)
        self.factor = max(1, round(SAMPLES / size))

    def render_batch(self, samples: Iterable[tuple[int, int]]) -> list[SynthFace]:
        """The faces of these (identity, index) pairs."""
        return [self.render(identity, index) for identity, index in samples]

    def render(
        self, identity: int, index: int, *, occluder: str | None = None, backdrop: tuple[int, int] | None = None
    ) -> SynthFace:
        """Picture `index` of person `identity`.

        `occluder` (one of `facex.synth.OCCLUDERS`) replaces the one that was drawn for the picture and changes nothing
        else; `backdrop` = (identity, index) takes background and clothes of another picture.
        """
        plan = self.plan(identity, index, occluder=occluder, backdrop=backdrop)
        image, parsing, occlusion = render_layers(size=self.size, factor=self.factor, **plan.arrays)
        if plan.shot.reduce > 1.0:
            small = max(8, round(self.size / plan.shot.reduce))
            image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        scale = self.size / FRAME
        points = ((plan.landmarks + 0.5) * scale - 0.5).astype(np.float32)
        return SynthFace(
            image=image,
            landmarks5=five_points(points).astype(np.float32),
            landmarks68=points,
            parsing=parsing,
            occlusion=occlusion,
            flags=plan.flags,
            quality=plan.shot.quality,
            identity=identity,
            index=index,
            occluder=plan.occluder,
        )

    def plan(
        self, identity: int, index: int, *, occluder: str | None = None, backdrop: tuple[int, int] | None = None
    ) -> Plan:
        """The geometry, light and camera of a picture, before a pixel is drawn."""
        if occluder is not None and occluder not in KINDS:
            raise ValueError(f"unknown occluder {occluder!r}; there are {', '.join(KINDS)}")
        return _plan(self.seed, identity, index, occluder, backdrop or (identity, index))


@dataclass
class Plan:
    """Everything that the native renderer needs, in the frame of the 112 px template."""

    arrays: dict[str, Any]
    landmarks: np.ndarray  # float64 [68, 2]
    flags: dict[str, bool]
    shot: Shot
    occluder: str


def _pose(seed: int, identity: int, index: int) -> Pose:
    d = Draws(seed, POSE, identity, index)
    yaw = d.choice((d.normal(0, 0.13), d.normal(0, 0.31, 1.75)), (1, 1))
    return Pose(yaw, d.normal(0, 0.12), math.exp(d.normal(6.1, 0.3)))


def _alignment(points: np.ndarray, seed: int, identity: int, index: int) -> np.ndarray:
    """The similarity of a real aligner: least squares to the template from five points that are found with an error."""
    d = Draws(seed, JITTER, identity, index)
    found = five_points(points) + 0.45 * np.maximum(np.minimum(d.rng.standard_normal((5, 2)), 2.2), -2.2)
    matrix = L.similarity(found, TEMPLATE)
    scale, angle = math.exp(d.normal(0, 0.03)), d.normal(0, 0.035)
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    moved = np.array([(c, -s), (s, c)]) @ matrix
    moved[:, 2] += (_CENTER[0] - c * _CENTER[0] + s * _CENTER[1], _CENTER[1] - s * _CENTER[0] - c * _CENTER[1])
    moved[:, 2] += (d.normal(0, 1.5), d.normal(0, 1.5))
    return moved


def _plan(seed: int, number: int, index: int, occluder: str | None, backdrop: tuple[int, int]) -> Plan:
    person = _person(seed, number)
    identity, surface = person.identity, person.surface
    key = (seed, number, index)
    pose, expression, hair = _pose(*key), make_expression(*key), hair_draws(*key)
    scene, front = scene_draws(seed, *backdrop), occluder_draws(*key)
    drawn = front.choice(KINDS, WEIGHTS)
    kind = drawn if occluder is None else occluder
    hat, earring = hair.chance(0.05), int(hair.choice((0, 0, 0, 1, 2)) if identity.hair.beard == "none" else 0)
    wears = hair.chance(0.75)  # people with glasses wear them three times in four
    worn = identity.sunglasses if kind == "sunglasses" else identity.glasses if wears else None

    seen = person.head.project(expression, pose)
    grid = seen["grid"].reshape(ROWS, COLUMNS, 3)
    contour = silhouette(grid)
    points = landmarks68(seen, _jaw_line(contour, seen))
    matrix = _alignment(points, *key)
    light = make_light(*key, identity.skin.gloss)

    stack = L.LayerStack()
    if "hairline" in seen:
        line = disturb_hairline(seen["hairline"], identity.hair.style, hair)
        seen["hairline"] = tuck_hairline(line, contour)
    hairdo = make_hairdo(identity, pose, hair, seen, contour)
    paint_backdrop(stack, scene)
    paint_back(stack, hairdo)
    paint_body(stack, identity, pose, points[8], scene)
    paint.paint_skin(stack, identity, contour)
    paint.paint_marks(stack, identity, seen, expression)
    paint.paint_shadows(stack, light, seen)
    paint_beard(stack, identity, seen)
    paint.paint_brows(stack, identity, seen)
    paint.paint_eyes(stack, identity, seen, expression)
    paint.paint_nose(stack, identity, seen)
    paint.paint_mouth(stack, identity, seen, expression)
    if hairdo is not None and hairdo.covers_ears:
        paint.paint_ears(stack, identity, seen, earring)
    paint_front(stack, hairdo, seen, hair)
    if hairdo is None or not hairdo.covers_ears:
        paint.paint_ears(stack, identity, seen, earring)
    if worn is not None:
        paint_glasses(stack, seen, worn, DARK if kind == "sunglasses" else CLEAR, hair)
    if hat:
        paint_hat(stack, hairdo, surface, pose, hair)
    paint_occluder(stack, kind, points, identity, front)

    polygons, offsets, rows, splats = stack.finish(matrix)
    vertices = grid.copy()
    vertices[:, :, :2] = grid[:, :, :2] @ matrix[:, :2].T + matrix[:, 2]
    vertices[:, :, 2] *= math.hypot(matrix[0, 0], matrix[1, 0])
    shot = make_shot(*key, _brightness(identity, light.values))
    arrays = {
        "points": polygons,
        "offsets": offsets,
        "layers": rows,
        "vertices": vertices.astype(np.float32),
        "albedo": person.albedo,
        "light": light.values,
        "splats": splats,
        "backdrop": make_backdrop(scene),
        "camera": shot.values,
        "tone": shot.tone,
        "seed": hair.seed(),
    }
    flags = {"masked": kind in MASKS_FACE, "occluded": kind != "none", "glasses": worn is not None, "hat": hat}
    return Plan(arrays, points @ matrix[:, :2].T + matrix[:, 2], flags, shot, kind)


def _jaw_line(contour: np.ndarray, seen: dict[str, np.ndarray]) -> np.ndarray:
    """Landmarks 0..16: on the face's contour from the height of the left eye round the chin to that of the right."""
    left, right = contour[:ROWS], contour[: ROWS - 1 : -1]  # both from the crown to the chin
    sides = []
    for side, eye in ((left, seen["l_eye"]), (right, seen["r_eye"])):
        y = float(eye[:, 1].mean())
        below = side[side[:, 1] > y]
        sides.append(np.concatenate([[(np.interp(y, side[:, 1], side[:, 0]), y)], below]))
    return resample(np.concatenate([sides[0], sides[1][::-1]]), 17)


def _brightness(identity: Identity, light: np.ndarray) -> float:
    """Luminance of skin that looks at the camera, a little turned to the light."""
    lit = 0.6 * light[3:6] * max(0.0, 0.4 + 0.6 * float(light[2])) + 0.5 * (light[6:9] + light[9:12])
    return float((identity.skin.tone * lit) @ np.array([0.3, 0.6, 0.1], np.float32))
