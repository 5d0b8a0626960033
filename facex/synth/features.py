"""Contours of the face's features on its surface, and the 68 landmarks that lie on them."""

from __future__ import annotations

import numpy as np

from facex.synth.cloud import Cloud
from facex.synth.expression import Expression
from facex.synth.identity import Identity
from facex.synth.layers import ellipse, ribbon
from facex.synth.surface import Surface, spline

# 13 points a lid and 5 a lip segment, so that the landmarks are points of the contours and not near them
_LID = np.linspace(0.0, 1.0, 13)
_PIECES = 4


def _eye(cloud: Cloud, e: dict[str, float], x: Expression, side: int, name: str) -> None:
    outer, inner = side * (e["x"] + e["half"]), side * (e["x"] - e["half"])
    line = np.stack([outer + (inner - outer) * _LID, e["y"] + e["tilt"] * e["half"] * (2 * _LID - 1)], 1)
    arch = np.sin(np.pi * _LID ** e["skew"]) ** 0.8
    upper, lower = line.copy(), line.copy()
    upper[:, 1] -= e["upper"] * x.openness * arch
    lower[:, 1] += e["lower"] * (0.45 + 0.55 * x.openness) * np.sin(np.pi * _LID) ** 0.85 - 0.6 * x.smile * arch
    lower[:, 1] = np.maximum(lower[:, 1], upper[:, 1])  # a closed eye has no area, not a negative one
    cloud.add(name + "eye", np.concatenate([upper, lower[-2:0:-1]]))
    cloud.add(name + "lash", ribbon(upper[:-1] - (0.0, 0.1), 1.7 * e["lash"]))
    crease = line[1:-1].copy()
    crease[:, 1] -= (e["upper"] * (0.6 + 0.4 * x.openness) + e["crease"]) * arch[1:-1]
    cloud.add(name + "crease", ribbon(crease, 0.9))
    center = np.array([side * e["x"] + x.gaze_x, e["y"] + x.gaze_y - 0.25 * e["upper"]])
    cloud.add(name + "iris", ellipse(center, e["iris"], e["iris"], 20))
    cloud.add(name + "pupil", ellipse(center, 0.42 * e["iris"], 0.42 * e["iris"], 12))
    cloud.add(name + "shine", ellipse(center + (0.9, -1.1), 0.62, 0.62, 8))


def _brow(cloud: Cloud, b: dict[str, float], x: Expression, side: int, name: str) -> None:
    t = np.linspace(0.0, 1.0, 9)  # inner to outer; landmarks at every second point
    y = b["y"] - b["arch"] * np.sin(np.pi * t**1.25) + b["tilt"] * (t - 0.5) - x.raised
    middle = np.stack([side * (b["gap"] + (b["outer"] - b["gap"]) * t), y], 1)
    half = 0.5 * b["thickness"] * (0.55 + 0.9 * t) * np.clip(1.35 * (1.0 - t**2.5), 0.25, 1.0)
    cloud.add(name + "brow", np.concatenate([middle - half[:, None] * (0, 1), (middle + half[:, None] * (0, 1))[::-1]]))
    cloud.add(name + "browline", middle[::2])


def _nose(cloud: Cloud, n: dict[str, float]) -> None:
    tip, wing, bridge, base = n["tip"], n["wing"], n["bridge"], n["base"]
    right = np.array([(bridge, tip - 20), (bridge * 1.05, tip - 13), (bridge + 0.35 * (wing - bridge), tip - 6), (0.95 * wing, tip - 0.5), (wing, tip + 3)])  # fmt: skip
    under = np.array([(0.78, -1.4), (0.4, -0.4), (0, 0), (-0.4, -0.4), (-0.78, -1.4)]) * (wing, 1) + (0, tip + base)
    cloud.add("nose_right", right)
    cloud.add("nose_left", right * (-1, 1))
    cloud.add("nose_base", under)
    cloud.add("nose_ridge", np.stack([np.zeros(5), right[:, 1]], 1))
    cloud.add("bridge", np.array([(0, tip - 18.5), (0, tip - 12.3), (0, tip - 6.1), (0, tip)]))
    for side, name in ((-1, "l_"), (1, "r_")):
        hole = ellipse((side * 0.48 * wing, tip + base - 1.6), 0.24 * wing, 1.15 * n["nostril"], 12, -0.25 * side)
        cloud.add(name + "nostril", hole)
        cloud.add(name + "alar", np.array([(side * wing * 1.03, tip + 2), (side * wing * 1.0, tip + base - 2)]))
        cloud.add(
            name + "fold", np.array([(side * (wing + 1.5), tip + 2), (side * 15.5, tip + 11), (side * 17, tip + 19)])
        )


def mouth_contours(m: dict[str, float], x: Expression) -> tuple[np.ndarray, np.ndarray]:
    """Outer [12, 2] and inner [8, 2] contour of the lips in iBUG order (48..59, 60..67), in head coordinates."""
    half = m["half"] * (1.0 + 0.16 * x.smile - 0.35 * x.pucker)
    thin = 1.0 - 0.25 * x.smile + 0.35 * x.pucker
    up, low, gap = m["upper"] * thin, m["lower"] * thin, x.mouth
    lift = m["corner"] - 2.6 * x.smile  # of the corners, negative is up
    peak = m["peak"]
    top = [(-0.58 * half, -0.62 * up), (-peak, -up - 0.5 * m["bow"]), (0, -up + 0.5 * m["bow"]), (peak, -up - 0.5 * m["bow"]), (0.58 * half, -0.62 * up)]  # fmt: skip
    bottom = [(0.6 * half, 0.68 * low + 0.8 * gap), (0.28 * half, low + gap), (0, 1.05 * low + gap), (-0.28 * half, low + gap), (-0.6 * half, 0.68 * low + 0.8 * gap)]  # fmt: skip
    outer = np.array([(-half, 0), *top, (half, 0), *bottom], np.float64)
    slit = 0.06 * up  # even closed lips have a line between them
    inner = np.array([(-0.88 * half, 0), (-0.4 * half, -slit), (0, -slit), (0.4 * half, -slit), (0.88 * half, 0), (0.4 * half, 0.85 * gap + slit), (0, gap + slit), (-0.4 * half, 0.85 * gap + slit)], np.float64)  # fmt: skip
    for contour in (outer, inner):
        share = np.abs(contour[:, 0]) / half
        contour[:, 1] += m["y"] + lift * share**2 + 0.12 * gap * share
    return outer, inner


def _mouth(cloud: Cloud, m: dict[str, float], x: Expression) -> None:
    outer, inner = mouth_contours(m, x)
    cloud.add("lips_outer", _smooth(outer, 6), jaw=False)
    opening = _smooth(inner, 4)
    cloud.add("lips_inner", opening, jaw=False)
    cloud.add("lips_line", ribbon(opening[:17], 0.8), jaw=False)
    teeth = np.array([(-0.7, -0.2), (0.7, -0.2), (0.66, 1.0), (0, 1.15), (-0.66, 1.0)]) * (m["half"], min(x.mouth, 3.4))
    cloud.add("teeth", teeth + (0, m["y"] - 0.15), jaw=False)


def _smooth(contour: np.ndarray, corner: int) -> np.ndarray:
    """Spline through a lip contour with sharp corners at points 0 and `corner`; every 4th point is a landmark."""
    upper = spline(contour[: corner + 1], _PIECES)
    lower = spline(np.concatenate([contour[corner:], contour[:1]]), _PIECES)
    return np.concatenate([upper[:-1], lower[:-1]])


def moving_groups(identity: Identity, x: Expression) -> Cloud:
    """What an expression moves: eyes, brows and mouth."""
    cloud = Cloud()
    for side, name in ((-1, "l_"), (1, "r_")):
        _eye(cloud, identity.eye, x, side, name)
        _brow(cloud, identity.brow, x, side, name)
    _mouth(cloud, identity.mouth, x)
    return cloud


def fixed_groups(identity: Identity, surface: Surface) -> Cloud:
    """Nose, ears and marks."""
    cloud = Cloud()
    for side, name in ((-1, "l_"), (1, "r_")):
        _ear(cloud, identity.ear, surface, side, name)
    _nose(cloud, identity.nose)
    cloud.add("moles", identity.skin.moles[:, :2].astype(np.float64))
    cloud.add("freckles", identity.skin.freckles[:, :2].astype(np.float64))
    return cloud


def _ear(cloud: Cloud, e: dict[str, float], surface: Surface, side: int, name: str) -> None:
    shape = np.array([(-0.6, -0.7), (0.35, -0.98), (0.85, -0.9), (1.1, -0.5), (0.95, 0.1), (0.6, 0.7), (0.15, 1.0), (-0.5, 0.75)])  # fmt: skip
    x = surface.half_width(e["y"]) + e["out"] * shape[:, 0]
    outline = spline(np.stack([side * x, e["y"] + e["half"] * shape[:, 1]], 1), 3, closed=True)
    depth = -1.2 * np.maximum(np.abs(outline[:, 0]) - x.min(), 0.0)
    cloud.add(name + "ear", outline, depth, jaw=False)
    middle = outline.mean(0)
    cloud.add(name + "concha", middle + (outline - middle) * 0.55 - (0, 0.08 * e["half"]), depth, jaw=False)


def landmarks68(seen: dict[str, np.ndarray], contour: np.ndarray) -> np.ndarray:
    """The 68 points in iBUG order [68, 2] from the projected groups and the 17 points of the face's `contour`."""
    left, right = seen["l_eye"], seen["r_eye"]
    inner = seen["lips_inner"][::_PIECES]
    return np.concatenate(
        [
            contour,
            seen["l_browline"][::-1],
            seen["r_browline"],
            seen["bridge"],
            seen["nose_base"][::-1],
            left[[0, 4, 8, 12, 16, 20]],  # outer corner, upper lid, inner corner, lower lid
            right[[12, 8, 4, 0, 20, 16]],  # inner corner, upper lid, outer corner, lower lid
            seen["lips_outer"][::_PIECES],
            inner,
        ]
    )


def five_points(points68: np.ndarray) -> np.ndarray:
    """Eye centres (means of the corners), nose tip and mouth corners [5, 2] of 68 landmarks [68, 2]."""
    p = points68
    return np.stack([0.5 * (p[36] + p[39]), 0.5 * (p[42] + p[45]), p[30], p[48], p[54]])
