"""Things in front of the face. All of them set the occlusion mask; what label they leave is said at each."""

from __future__ import annotations

import numpy as np

from facex.synth import layers as L
from facex.synth.hair import strand_color
from facex.synth.identity import Identity
from facex.synth.randoms import OCCLUDER, Draws, linear
from facex.synth.surface import spline

KINDS = ("none", "block", "hand", "mask", "scarf", "strand", "sunglasses")
WEIGHTS = (0.82, 0.034, 0.03, 0.03, 0.022, 0.034, 0.03)
MASKS_FACE = ("mask", "scarf")  # these set the flag "masked"


def occluder_draws(seed: int, identity: int, index: int) -> Draws:
    """The stream of occluders; its first draw is the kind."""
    return Draws(seed, OCCLUDER, identity, index)


def _fabric(d: Draws, plain: bool = False) -> tuple[np.ndarray, tuple[float, ...]]:
    color, second = d.rng.uniform(0.01, 0.8, 3), d.rng.uniform(0.01, 0.8, 3)
    pattern = 0 if plain else d.choice((0, 1, 2, 3))
    return color, (*second, pattern, d.uniform(0.05, 0.2), d.uniform(0, 3), 0.0, 0.0)


def _block(stack: L.LayerStack, points: np.ndarray, d: Draws) -> None:
    """A rectangle, ellipse or polygon of some stuff: background."""
    x, y = d.uniform(15, 97), d.uniform(30, 105)
    rx, ry = d.uniform(9, 26), d.uniform(9, 26)
    shape = L.ellipse((x, y), rx, ry, int(d.choice((4, 4, 5, 6, 28))), d.uniform(0, 3.1))
    color, p = _fabric(d)
    stack.add(shape, L.BACKGROUND, L.FABRIC, color, p, L.G_TOP, 0, 1)


def _hand(stack: L.LayerStack, points: np.ndarray, identity: Identity, d: Draws) -> None:
    """Fingers that come in from below or from the side: background (the label set has no hand)."""
    chin, side = points[8], d.choice((-1, 1))
    target = points[d.choice((3, 5, 48, 57, 36, 31)) if side < 0 else d.choice((13, 11, 54, 57, 45, 35))]
    start = chin + (side * d.uniform(25, 50), d.uniform(15, 45))
    axis = target - start
    length = float(np.hypot(*axis))
    axis = axis / max(length, 1e-3)
    across = np.array([-axis[1], axis[0]])
    skin = identity.skin.tone * np.float32(0.95)
    width = d.uniform(6.0, 8.5)
    for k in range(4):
        offset = (k - 1.5) * width * 0.98
        reach = length * (0.86, 1.0, 0.97, 0.82)[k] * d.uniform(0.94, 1.04)
        base, tip = start + across * offset, start + across * (offset * 1.05) + axis * reach
        curve = spline(np.array([base - axis * 20, 0.5 * (base + tip) + across * d.normal(0, 1), tip]), 5)
        ends = np.full(len(curve), width)
        ends[-2:] = (0.85 * width, 0.35 * width)
        middle = 0.5 * (base + tip)
        p = (*middle, 0.75 * width + 30 * abs(axis[0]), 0.75 * width + 30 * abs(axis[1]), 0.0, 0.0, 0.0, 0.1)
        stack.add(L.ribbon(curve, ends), L.BACKGROUND, L.ROUND, skin * (0.88 + 0.06 * k), p, L.G_TOP, 0, 1)


def _mask(stack: L.LayerStack, points: np.ndarray, d: Draws) -> None:
    """A face mask from the bridge of the nose to under the chin: background."""
    top = points[28] + d.uniform(0.1, 0.9) * (points[29] - points[28])
    contour = points[2:15] + (0, 1.5)
    edge = np.array([points[2] + (-0.5, -2), 0.5 * (points[31] + points[2]) + (0, -9), top])
    edge2 = np.array([top, 0.5 * (points[35] + points[14]) + (0, -9), points[14] + (0.5, -2)])
    upper = np.concatenate([spline(edge, 4), spline(edge2, 4)[1:]])
    color = d.choice((linear(170, 205, 225), linear(235, 238, 240), linear(28, 28, 30), linear(90, 140, 120), d.rng.uniform(0.02, 0.7, 3)))  # fmt: skip
    _, p = _fabric(d)
    pattern = d.choice((0, 0, 1))
    p = (*(np.asarray(color) * 0.75), pattern, 0.12, 1.57, 0.0, 0.15)
    for ear, cheek in ((points[0] + (-3, 4), points[3]), (points[16] + (3, 4), points[13])):
        stack.add(L.ribbon(np.array([ear, cheek]), 0.9), L.BACKGROUND, L.FLAT, (0.6, 0.6, 0.6), (), L.G_TOP, 0, 1)
    stack.add(np.concatenate([upper, contour[::-1]]), L.BACKGROUND, L.FABRIC, color, p, L.G_TOP, 0, 1)
    stack.spot(points[57] + (0, 6), (22, 10), (0.8, 0.8, 0.8), target=1)
    stack.spot(points[30] + (0, 2), (7, 9), (1.2, 1.2, 1.2), target=1)


def _scarf(stack: L.LayerStack, points: np.ndarray, identity: Identity, d: Draws) -> None:
    """A scarf or collar pulled up over mouth or nose: cloth."""
    y = float(points[d.choice((29, 30, 33, 33)), 1]) + d.uniform(-1, 3)
    xs = np.linspace(-20, 132, 11)
    upper = np.stack([xs, y + 5 * ((xs - points[30, 0]) / 40) ** 2 + d.rng.uniform(-1.5, 1.5, 11)], 1)
    color, p = _fabric(d)
    polygon = np.concatenate([spline(upper, 3), [(140, 180), (-30, 180)]])
    stack.add(polygon, L.CLOTH, L.FABRIC, identity.scarf_color if d.chance(0.3) else color, p, L.G_TOP, 0, 1)


def _strand(stack: L.LayerStack, points: np.ndarray, identity: Identity, d: Draws) -> None:
    """Locks of the person's hair across the face: hair."""
    side = d.choice((-1, 1))
    brow = points[19] if side < 0 else points[24]
    for _ in range(int(d.choice((2, 4, 6)))):
        root = brow + (d.normal(0, 7), -d.uniform(22, 34))
        end = brow + (side * d.uniform(-6, 14), d.uniform(10, 48))
        bend = 0.5 * (root + end) + (side * d.uniform(2, 9), 0)
        curve = spline(np.array([root, bend, end]), 8)
        width = d.uniform(2.0, 5.0) * np.linspace(1.0, 0.15, len(curve))
        color = strand_color(identity) * d.uniform(0.8, 1.1)
        stack.add(L.ribbon(curve, width), L.HAIR, L.STRANDS, color, (*root, 40, 50, 30, 0.3, 0.5, 0.8), L.G_TOP, 0, 1)


def paint_occluder(stack: L.LayerStack, kind: str, points: np.ndarray, identity: Identity, d: Draws) -> None:
    """Draw an occluder of `kind` over the face with landmarks `points` [68, 2] (sunglasses are drawn as glasses)."""
    if kind == "block":
        _block(stack, points, d)
    elif kind == "hand":
        _hand(stack, points, identity, d)
    elif kind == "mask":
        _mask(stack, points, d)
    elif kind == "scarf":
        _scarf(stack, points, identity, d)
    elif kind == "strand":
        _strand(stack, points, identity, d)
