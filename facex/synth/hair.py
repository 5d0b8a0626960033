"""Hair, beard and hats: contours that follow the head, with strands that differ from picture to picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facex.synth import layers as L
from facex.synth.cloud import Cloud
from facex.synth.identity import Hair, Identity
from facex.synth.randoms import HAIR, Draws, linear
from facex.synth.surface import Pose, Surface, spline

_COVERING = ("bob", "long")
_ARC = np.stack([np.cos(np.linspace(np.pi, 0.0, 33)), np.sin(np.linspace(np.pi, 0.0, 33))], 1)


@dataclass
class Hairdo:
    """The hair of one picture: the identity's style with today's volume and disorder."""

    style: Hair
    volume: float
    center: np.ndarray  # of the skull in the picture plane
    radii: tuple[float, float]
    outline: np.ndarray  # [n, 2] outer contour, from the left end over the crown to the right end

    @property
    def covers_ears(self) -> bool:
        return self.style.style in _COVERING

    @property
    def material(self) -> tuple[float, ...]:
        """Parameters of the STRANDS material."""
        h = self.style
        contrast = 0.55 if h.style != "buzz" else 0.3
        return (*self.center, *self.radii, h.strands, h.curl, contrast, h.gloss)


def add_hairline(cloud: Cloud, identity: Identity, surface: Surface) -> None:
    """The border between hair and face, as points of the head: "hairline" from the right end to the left."""
    h = identity.hair
    if h.style == "bald":
        return
    end = {"fringe": 66, "buzz": 54, "tied": 50, "receding": 56}.get(h.style, 60)
    line = h.line
    if h.style == "fringe":
        line = 35.0 + 0.25 * (h.line - 15)
    count = 27 if h.style == "fringe" else 19
    s = np.sin(np.linspace(0.5 * np.pi, -0.5 * np.pi, count))
    y = line - h.recess * np.exp(-(((np.abs(s) - 0.62) / 0.16) ** 2)) + 5.0 * np.abs(s) ** 3
    if h.style in ("side_part", "long", "bob", "short"):
        y += 5.0 * h.part * s + 4.0 * np.clip(1 - np.abs(s - h.part) / 0.25, 0, 1) * -1.0
    side = np.clip((np.abs(s) - 0.86) / 0.14, 0.0, 1.0)
    y = y + side**1.5 * (end - y)
    x = s * surface.half_width(y)
    if h.style in _COVERING:
        cover = h.cover
        ys = np.array([h.length, 0.5 * (h.length + 84), 84.0, 70.0, 56.0, 44.0, 34.0])
        xs = cover * surface.half_width(np.minimum(ys, 76.0)) + np.where(ys > 84, 0.05 * (ys - 84), 0.0)
        keep = side < 0.05
        x = np.concatenate([xs, x[keep], -xs[::-1]])
        y = np.concatenate([ys, y[keep], ys[::-1]])
    cloud.add("hairline", np.stack([x, y], 1), jaw=False)


def disturb_hairline(line: np.ndarray, style: str, d: Draws) -> np.ndarray:
    """Today's disorder of the projected hairline."""
    rough = 1.3 if style == "fringe" else 0.55
    offset = d.rng.uniform(-1, 1, line.shape) * (0.4, rough)
    offset[0] = offset[-1] = 0.0
    return line + offset + (0.0, d.normal(0, 0.7))


def make_hairdo(
    identity: Identity, pose: Pose, d: Draws, seen: dict[str, np.ndarray], contour: np.ndarray
) -> Hairdo | None:
    """The outer contour of the hair; None for a bald head."""
    h = identity.hair
    if h.style == "bald":
        return None
    volume = {"buzz": 0.7, "tied": 0.4 * h.volume, "receding": 0.6 * h.volume}.get(h.style, h.volume) * d.uniform(
        0.75, 1.25
    )
    upper = contour[contour[:, 1] < pose.project(np.array([[0.0, 46.0, 0.0]]))[0, 1]]  # the skull, as it is seen
    low, high = upper.min(0), upper.max(0)
    center = np.array([0.5 * (low[0] + high[0]), high[1]])
    back = float(2.5 * np.sin(pose.yaw))  # the back of the head comes into view on the near side
    center[0] -= back
    rx, ry = 0.5 * float(high[0] - low[0]) + 0.8 * volume + 0.6 + abs(back), float(high[1] - low[1]) + volume
    excess = np.sqrt((((upper - center) / (rx, ry)) ** 2).sum(1)).max()
    rx, ry = rx * max(1.0, excess + 0.01), ry * max(1.0, excess + 0.01)
    bumpy = {"curly": 0.06, "long": 0.015, "bob": 0.015}.get(h.style, 0.01)
    wave = 1.0 + bumpy * np.convolve(d.rng.uniform(-1, 1, 35), [0.25, 0.5, 0.25], "valid") * 1.6
    arc = np.stack([center[0] + rx * wave * _ARC[:, 0], center[1] - ry * wave * _ARC[:, 1]], 1)
    ends = seen["hairline"][[-1, 0], 1]
    spread = {"bob": 4.0, "long": 2.0, "curly": 3.0}.get(h.style, -1.5)
    sides = []
    for sign, y in zip((-1, 1), ends, strict=True):
        middle = (center[0] + sign * (rx + 0.7 * max(spread, 0)), 0.5 * (center[1] + y))
        sides.append([(center[0] + sign * (rx + spread), y), middle])
    outline = np.concatenate([np.array(sides[0]), arc, np.array(sides[1][::-1])])
    return Hairdo(h, volume, center, (rx + 1, ry + 1), outline)


def tuck_hairline(line: np.ndarray, contour: np.ndarray) -> np.ndarray:
    """On the side that a turned head hides, the hairline runs behind the face's contour: lay it just outside of it."""
    line, rows = line.copy(), len(contour) // 2
    middle = len(line) // 2
    for sign, part, side in (
        (1, slice(middle, None, -1), contour[: rows - 1 : -1]),
        (-1, slice(middle, None), contour[:rows]),
    ):
        x, y = sign * line[part, 0], line[part, 1]
        edge = sign * np.interp(y, side[:, 1], side[:, 0])
        far = int(np.argmax(x - edge > -0.6)) if (x - edge > -0.6).any() else len(x)
        x[far:] = np.maximum(x[far:], edge[far:] + 1.5)
        line[part, 0] = sign * x
    return line


def paint_back(stack: L.LayerStack, hairdo: Hairdo | None) -> None:
    """What hangs behind the neck and stands behind the head."""
    if hairdo is None or hairdo.style.style == "buzz":
        return
    if hairdo.covers_ears:
        bottom = hairdo.outline[[0, -1]]
        polygon = np.concatenate([hairdo.outline, bottom[::-1] * (0.92, 1) + (0.08 * hairdo.center[0], 3)])
    else:
        polygon = L.ellipse(hairdo.center, hairdo.radii[0] - 2.0, hairdo.radii[1] - 1.5, 36)
    stack.add(polygon, L.HAIR, L.STRANDS, 0.55 * hairdo.style.color, hairdo.material, L.G_HAIR)


def paint_front(stack: L.LayerStack, hairdo: Hairdo | None, seen: dict[str, np.ndarray], d: Draws) -> None:
    """The hair over the skull, down to the hairline, with a few strands that leave the form."""
    if hairdo is None:
        return
    polygon = np.concatenate([hairdo.outline, spline(seen["hairline"], 3)])
    color, p = hairdo.style.color, hairdo.material
    if hairdo.style.style == "buzz":
        stack.add(polygon, L.HAIR, L.ON_SKIN, 0.7 * color, (0.72, 0.25, 2.0, 0.3), L.G_HAIR)
        return
    stack.add(polygon, L.HAIR, L.STRANDS, color, p, L.G_HAIR)
    line = seen["hairline"]
    loose = int(d.choice((0, 2, 4))) + (4 if hairdo.style.style == "fringe" else 0)
    for _ in range(loose):
        root = line[int(d.uniform(0.25, 0.75) * len(line))]
        drop = d.uniform(2, 7)
        side = d.normal(0, 2.5)
        curve = np.array([root - (0, 4), root + (0.3 * side, 0.4 * drop), root + (side, drop)])
        stack.add(L.ribbon(spline(curve, 3), np.linspace(1.6, 0.3, 7)), L.HAIR, L.STRANDS, 0.9 * color, p, L.G_HAIR)


def add_beard(cloud: Cloud, identity: Identity, surface: Surface) -> None:
    """Beard and moustache as points of the face."""
    kind, m = identity.hair.beard, identity.mouth
    chin = surface.bottom
    if kind in ("goatee", "full", "moustache"):
        x = np.array([-1.08, -0.75, -0.3, 0, 0.3, 0.75, 1.08, 0.7, 0, -0.7]) * m["half"]
        top = m["y"] - m["upper"]
        y = np.array(
            [
                m["y"] + 3,
                top - 1.5,
                top - 4.2,
                top - 3.4,
                top - 4.2,
                top - 1.5,
                m["y"] + 3,
                m["y"] - 0.5,
                top,
                m["y"] - 0.5,
            ]
        )
        cloud.add("moustache", np.stack([x, y], 1))
    if kind == "goatee":
        x = np.array([-1.02, -0.45, 0, 0.45, 1.02, 0.95, 0.4, -0.4, -0.95]) * m["half"]
        low = m["y"] + m["lower"]
        y = np.array([m["y"], low + 1.5, low + 1.2, low + 1.5, m["y"], chin - 8, chin + 2, chin + 2, chin - 8])
        cloud.add("beard", np.stack([x, y], 1))
    if kind == "full":
        ys = np.array([58.0, 68, 78, 88, 98, chin - 3])
        edge = 1.06 * surface.half_width(ys) + 1.0
        inner = np.array([(0.93 * edge[1], 62.0), (0.8 * edge[1], 76.0), (m["half"] * 1.12, 84.5), (m["half"] * 1.05, m["y"]), (0.45 * m["half"], m["y"] + m["lower"] + 0.8)])  # fmt: skip
        right = np.concatenate([np.stack([edge, ys], 1), [(0, chin + 3)]])
        left = right[-2::-1] * (-1, 1)
        cloud.add("beard", np.concatenate([right, left, inner * (-1, 1), inner[::-1]]))


def paint_beard(stack: L.LayerStack, identity: Identity, seen: dict[str, np.ndarray]) -> None:
    """Beard over the skin; the skin keeps its label, as annotators of face parsing have it."""
    h = identity.hair
    for name in ("beard", "moustache"):
        if name in seen:
            stack.add(spline(seen[name], 2, closed=True) if name == "moustache" else seen[name], L.KEEP, L.ON_SKIN, 0.75 * h.color, (h.beard_density, 0.5, 1.3, 0.15, 0.2), L.G_FEATURE, L.G_SKIN | L.G_FEATURE, -1)  # fmt: skip


def paint_hat(stack: L.LayerStack, hairdo: Hairdo | None, surface: Surface, pose: Pose, d: Draws) -> None:
    """A woollen hat or a cap with a visor."""
    center = pose.project(np.array([[0.0, 46.0, -14.0]]))[0, :2]
    grow = 2.0 + (0.5 * hairdo.volume if hairdo else 0.0)
    width = float(np.hypot(surface.half_width(37.0) + grow, 10 * np.sin(pose.yaw)))
    brim = d.uniform(16, 27)
    xs = np.linspace(1, -1, 15)
    depth = np.sqrt(1 - 0.98 * xs**2)
    band = np.stack([xs * (float(surface.half_width(30.0)) + 1.5), brim + 4 * xs**2, 44 * depth], 1)
    band2 = pose.project(band)[:, :2]
    angle = np.linspace(np.pi, 0.0, 25)
    dome = np.stack(
        [center[0] + width * np.cos(angle), center[1] - 12 - (46 - surface.top + grow - 8) * np.sin(angle)], 1
    )
    color = np.array([d.uniform(0.01, 0.7) for _ in range(3)])
    second = np.array([d.uniform(0.01, 0.7) for _ in range(3)])
    pattern = d.choice((0, 0, 1, 3))
    p = (*second, pattern, d.uniform(0.06, 0.2), d.uniform(0, 3), 0.0, -0.3)
    stack.add(np.concatenate([dome, band2]), L.HAT, L.FABRIC, color, p, L.G_TOP)
    if d.chance(0.5):
        low = band2[3:-3] + np.stack([np.zeros(9), 7.5 * np.sin(np.linspace(0.1, np.pi - 0.1, 9))], 1)
        stack.add(
            np.concatenate([band2[3:-3], low[::-1]]), L.HAT, L.FABRIC, 0.6 * color, (*second, 0, 0, 0, 0, 0.4), L.G_TOP
        )
        stack.spot(band2[7] + (0, 12), (26, 9), (0.6, 0.6, 0.62), target=1)


def hair_draws(seed: int, identity: int, index: int) -> Draws:
    """The stream of today's hair."""
    return Draws(seed, HAIR, identity, index)


def strand_color(identity: Identity) -> np.ndarray:
    """Colour of hair that falls over the face; dark for people without any."""
    return linear(50, 40, 34) if identity.hair.style == "bald" else identity.hair.color
