"""What surrounds the face: backdrop, neck, clothes, jewellery and glasses."""

from __future__ import annotations

import numpy as np

from facex.synth import layers as L
from facex.synth.cloud import Cloud
from facex.synth.identity import Glasses, Identity
from facex.synth.randoms import SCENE, Draws
from facex.synth.surface import Pose, Surface

CLEAR, DARK = "clear_", "dark_"  # prefixes of the groups of points of the two pairs of glasses


def scene_draws(seed: int, key: int, index: int) -> Draws:
    """The stream of backdrop and clothes. `key` is the identity, unless a test wants two people before one backdrop."""
    return Draws(seed, SCENE, key, index)


def _color(d: Draws, low: float = 0.01, high: float = 0.8) -> np.ndarray:
    grey, hue = low + (high - low) * d.uniform() ** 1.8, 1.0 + d.uniform(0.0, 0.6) * d.rng.uniform(-1, 1, 3)
    return np.minimum(grey * hue, 1.0)


def make_backdrop(d: Draws) -> np.ndarray:
    """A coarse picture [6, 7, 3] that is stretched smoothly behind everything."""
    base, other = _color(d), _color(d)
    ramp = np.linspace(0, 1, 6)[:, None, None] if d.chance(0.5) else np.linspace(0, 1, 7)[None, :, None]
    grid = base + (other - base) * ramp * d.uniform(0.0, 1.0)
    grid = grid * (1.0 + d.uniform(0.05, 0.8) * d.rng.uniform(-1, 1, (6, 7, 1)))
    return np.clip(grid + d.uniform(0.0, 0.07) * d.rng.uniform(-1, 1, (6, 7, 3)), 0.0, 1.2).astype(np.float32)


def paint_backdrop(stack: L.LayerStack, d: Draws) -> None:
    """The backdrop and things that stand before it."""
    stack.add(np.zeros((0, 2)), L.BACKGROUND, L.BACKDROP, (0, 0, 0), (), L.G_BACK)
    for _ in range(int(d.choice((0, 1, 3, 5, 8)))):
        x, y, color = d.uniform(-10, 122), d.uniform(-10, 122), _color(d)
        if d.chance(0.4):
            shape = L.ellipse((x, y), d.uniform(4, 30), d.uniform(4, 30), 20, d.uniform(0, 3))
        else:
            shape = L.ellipse((x, y), d.uniform(5, 60), d.uniform(4, 40), 4, d.uniform(0, 3))
        p = (*_color(d), d.choice((0, 0, 1, 2, 3)), d.uniform(0.03, 0.2), d.uniform(0, 3), 0.0, 0.0)
        stack.add(shape, L.BACKGROUND, L.FABRIC, color, p, L.G_BACK)


def paint_body(stack: L.LayerStack, identity: Identity, pose: Pose, chin: np.ndarray, d: Draws) -> None:
    """Neck, perhaps a necklace, and clothes with a collar."""
    middle = pose.project(np.array([[0.0, 100.0, -22.0]]))[0, 0] - 6.0 * np.sin(pose.yaw)
    half, skin = identity.neck, identity.skin.tone
    neck = np.array([(-half, 70), (half, 70), (1.02 * half, 112), (1.9 * half, 128), (2.2 * half, 160), (-2.2 * half, 160), (-1.9 * half, 128), (-1.02 * half, 112)])  # fmt: skip
    stack.add(neck + (middle, 0), L.NECK, L.ROUND, skin, (middle, chin[1] + 14, 1.25 * half, 42, 0.75), L.G_BODY)
    collar, depth = d.normal(118, 8), d.choice((0.0, 3.0, 14.0, 30.0))
    if d.chance(0.18):
        y, metal = collar - d.uniform(0, 6), d.choice(((0.75, 0.55, 0.2), (0.6, 0.6, 0.62), (0.3, 0.05, 0.06)))
        curve = np.array(
            [(-1.05 * half, y - 8), (-0.6 * half, y + 2), (0, y + 6), (0.6 * half, y + 2), (1.05 * half, y - 8)]
        )
        stack.add(L.ribbon(curve + (middle, 0), d.uniform(1.2, 2.6)), L.NECKLACE, L.ROUND, metal, (middle, y, half, 12, 0, 0, 0, 1.0), L.G_BODY)  # fmt: skip
    slope, wide = d.uniform(6, 22), 1.12 * half
    cloth = np.array([(-150, 190), (-95, collar + slope), (-wide, collar - 9), (-0.9 * half, collar - 2), (0, collar + depth), (0.9 * half, collar - 2), (wide, collar - 9), (95, collar + slope), (150, 190)])  # fmt: skip
    p = (*_color(d), d.choice((0, 0, 1, 2, 3)), d.uniform(0.04, 0.2), d.uniform(0, 3), 0.0, -0.35)
    stack.add(cloth + (middle, 0), L.CLOTH, L.FABRIC, _color(d), p, L.G_BODY)


def add_glasses(cloud: Cloud, identity: Identity, surface: Surface, g: Glasses, prefix: str) -> None:
    """Rims, bridge and temples of a pair of glasses that sits on the nose, as points of the head."""
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    shape = np.stack([np.sign(c) * np.abs(c) ** (2 / g.squareness), np.sign(s) * np.abs(s) ** (2 / g.squareness)], 1)
    x, y = identity.eye["x"] + 0.6, identity.eye["y"] + 2.0
    plane = float(surface.depth(np.array([[0.0, y]]))[0]) + 3.0
    for side, name in ((-1, prefix + "l_"), (1, prefix + "r_")):
        for part, grow in (("rim", 0.0), ("lens", -g.thickness)):
            points = np.array([side * x, y]) + shape * (g.width + grow, g.height + grow)
            cloud.add(name + part, points, plane - 0.004 * points[:, 0] ** 2 - surface.depth(points), jaw=False)
        edge = x + g.width - 0.5
        ear = float(surface.half_width(52.0)) + 0.5
        arm = np.array([(side * edge, y - 3.0), (side * 0.5 * (edge + ear), y - 3.5), (side * ear, y - 4.0)])
        height = np.array([plane - 0.004 * edge**2, 0.5 * plane, -4.0]) - surface.depth(arm)
        arm = L.ribbon(arm, max(1.0, 0.8 * g.thickness))
        cloud.add(name + "temple", arm, np.concatenate([height, height[::-1]]), jaw=False)
    gap = x - g.width + 0.5
    bar = np.array([(-gap, y - 1.5), (0, y - 2.5), (gap, y - 1.5)])
    bar = L.ribbon(bar, max(0.9, g.thickness))
    cloud.add(prefix + "bar", bar, plane - surface.depth(bar), jaw=False)


def paint_glasses(stack: L.LayerStack, seen: dict[str, np.ndarray], g: Glasses, prefix: str, d: Draws) -> None:
    """Clear glasses label their frame; dark ones are lenses too, and hide the eyes."""
    color = np.asarray(g.color) * 0.8
    dark, sides = prefix == DARK, (prefix + "l_", prefix + "r_")
    for name in sides:
        stack.add(seen[name + "temple"], L.GLASSES, L.FLAT, 0.7 * color, (), L.G_TOP, L.G_SKIN | L.G_HAIR | L.G_FEATURE, int(dark))  # fmt: skip
    stack.add(seen[prefix + "bar"], L.GLASSES, L.FLAT, color, (), L.G_TOP, 0, int(dark))
    for name in sides:
        rim, lens = seen[name + "rim"], seen[name + "lens"]
        center = lens.mean(0)
        if dark:
            stack.add(rim, L.GLASSES, L.ROUND, color * 0.25 + 0.004, (*center, 3 * g.width, 3 * g.height, -0.5, 0, 0, 0.4), L.G_TOP, 0, 1)  # fmt: skip
        else:
            stack.add(
                L.ring(rim, lens),
                L.GLASSES,
                L.ROUND,
                color,
                (*center, 2 * g.width, 2 * g.height, 0, 0, 0, 1.0),
                L.G_TOP,
            )
            stack.spot(center, (g.width, g.height), (0.9, 0.92, 0.92), target=1)
        if d.chance(0.3):
            spot = center + (d.uniform(-0.5, 0.5) * g.width, -0.4 * g.height)
            stack.spot(spot, (d.uniform(1.5, 4), 1.5), (0.5, 0.5, 0.55), d.uniform(0, 3), target=2)
