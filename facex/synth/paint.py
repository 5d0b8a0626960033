"""The face itself, in layers: skin, features, and the soft shadows and marks on it."""

from __future__ import annotations

import cv2
import numpy as np

from facex.synth import layers as L
from facex.synth.expression import Expression
from facex.synth.identity import Identity
from facex.synth.light import Lighting
from facex.synth.surface import COLUMNS, ROWS, Surface

_MARK = np.array([1.0, 0.8, 0.75])
_ON = L.G_SKIN | L.G_FEATURE


def face_albedo(identity: Identity, surface: Surface) -> np.ndarray:
    """How the skin's colour varies over the surface, float32 [ROWS, COLUMNS, 3]: blush, stubble, sockets, blotches."""
    s = identity.skin
    x, y = surface.grid[:, 0].reshape(ROWS, COLUMNS), surface.grid[:, 1].reshape(ROWS, COLUMNS)

    def patch(cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
        return np.exp(-0.5 * (((np.abs(x) - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))

    field = cv2.resize(s.unevenness, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
    tone = 1.0 + 0.09 * field
    red = s.blush * (patch(20, 72, 9, 7) + 0.6 * patch(0, 72, 5, 5))
    dark = 0.22 * patch(9.5, 51, 3.5, 5) + 0.16 * patch(17.6, 47, 8, 3) + 0.28 * patch(0, 81, 6, 2.2)
    beard = s.stubble * np.clip((y - 76) / 12, 0, 1) * np.clip((np.abs(x) + 24 - np.abs(y - 92)) / 20, 0, 1)
    albedo = np.repeat((tone * (1 - dark))[:, :, None], 3, 2)
    albedo *= 1.0 - red[:, :, None] * np.array([0.0, 0.35, 0.3])
    albedo *= 1.0 - beard[:, :, None] * np.array([0.62, 0.52, 0.46])
    return albedo.astype(np.float32)


def paint_skin(stack: L.LayerStack, identity: Identity, contour: np.ndarray) -> None:
    """The head without features. It is the first skin layer: what lies on skin takes its colour from it."""
    stack.add(contour, L.SKIN, L.FACE, identity.skin.tone, (), L.G_SKIN)


def paint_ears(stack: L.LayerStack, identity: Identity, seen: dict[str, np.ndarray], earring: int) -> None:
    """Ears beside the head: never over the face, whatever was drawn before."""
    beside = L.G_BACK | L.G_HAIR | L.G_BODY
    for label, name in ((L.L_EAR, "l_ear"), (L.R_EAR, "r_ear")):
        ear = seen[name]
        low, high = ear.min(0), ear.max(0)
        center, half = 0.5 * (low + high), 0.5 * (high - low)
        p = (*center, 2.2 * half[0] + 2, 2.2 * half[1] + 2)
        stack.add(ear, label, L.ROUND, identity.skin.tone * np.float32(0.92), p, L.G_BODY << 5, beside)
        stack.add(
            seen[name[:2] + "concha"],
            L.KEEP,
            L.ROUND,
            identity.skin.tone * np.float32(0.6),
            p,
            L.G_BODY << 5,
            L.G_BODY << 5,
            -1,
        )
        if earring:
            lobe = np.array([center[0], ear[:, 1].max() + 0.4])
            size = 1.3 if earring == 1 else 2.4
            drop = L.ellipse(lobe + (0, size), size, 1.5 * size, 14)
            stack.add(
                drop, L.EARRING, L.ROUND, (0.7, 0.58, 0.3), (*lobe, 3, 4, 0, 0, 0, 2.0), L.G_TOP, beside | L.G_BODY << 5
            )


def paint_brows(stack: L.LayerStack, identity: Identity, seen: dict[str, np.ndarray]) -> None:
    """Eyebrows: hair over skin."""
    b = identity.brow
    color = identity.hair.color * np.float32(b["tone"] * 0.8)
    for label, name, slant in ((L.L_BROW, "l_brow", 0.5), (L.R_BROW, "r_brow", -0.5)):
        stack.add(seen[name], label, L.ON_SKIN, color, (b["density"], 0.5, 1.1, slant), L.G_FEATURE, _ON)


def paint_eyes(stack: L.LayerStack, identity: Identity, seen: dict[str, np.ndarray], x: Expression) -> None:
    """Eyeballs, irises with a catchlight, lids and lashes."""
    e, skin = identity.eye, identity.skin.tone
    for label, side in ((L.L_EYE, "l_"), (L.R_EYE, "r_")):
        eye, iris = seen[side + "eye"], seen[side + "iris"]
        center, width, pupil = eye.sum(0) / len(eye), float(eye[0, 0] - eye[12, 0]), 0.5 * (iris[0] + iris[10])
        stack.add(eye, label, L.EYEBALL, (0.68, 0.66, 0.64), (*center, 0.62 * abs(width), 0.5), L.G_EYE)
        stack.add(iris, L.KEEP, L.EYEBALL, identity.eye_color, (*pupil, e["iris"], 0.75, 0.25), L.G_EYE, L.G_EYE, -1)
        stack.add(seen[side + "pupil"], L.KEEP, L.FLAT, (0.008, 0.007, 0.007), (), L.G_EYE, L.G_EYE, -1)
        stack.add(seen[side + "shine"], L.KEEP, L.FLAT, (0.8, 0.8, 0.8), (), L.G_EYE, L.G_EYE, -1)
        stack.add(seen[side + "lash"], L.KEEP, L.ON_SKIN, (0.02, 0.015, 0.012), (0.9,), L.G_FEATURE, 0, -1)  # fmt: skip
        if e["crease"] > 0.4:
            stack.add(seen[side + "crease"], L.KEEP, L.ON_SKIN, 0.4 * skin, (0.55,), L.G_FEATURE, _ON, -1)


def paint_nose(stack: L.LayerStack, identity: Identity, seen: dict[str, np.ndarray]) -> None:
    """The nose is skin with a label of its own: its form is in the surface. Nostrils and wings are drawn."""
    left, right, ridge, base = seen["nose_left"], seen["nose_right"], seen["nose_ridge"], seen["nose_base"]
    left = np.stack([np.minimum(left[:, 0], ridge[:, 0] - 1.2), left[:, 1]], 1)
    right = np.stack([np.maximum(right[:, 0], ridge[:, 0] + 1.2), right[:, 1]], 1)
    contour = np.concatenate([right, base, left[::-1]])
    stack.add(contour, L.NOSE, L.FACE, identity.skin.tone, (), L.G_SKIN, _ON)
    for side in ("l_", "r_"):
        stack.add(
            seen[side + "nostril"], L.KEEP, L.ON_SKIN, 0.12 * identity.skin.tone, (0.85,), L.G_FEATURE, L.G_SKIN, -1
        )
        a, b = seen[side + "alar"]
        stack.spot(0.5 * (a + b), (1.1, 0.6 * float(np.hypot(*(b - a)))), (0.72, 0.66, 0.66))


def paint_mouth(stack: L.LayerStack, identity: Identity, seen: dict[str, np.ndarray], x: Expression) -> None:
    """Lips, and what is between them."""
    outer, inner = seen["lips_outer"], seen["lips_inner"]
    upper = np.concatenate([outer[:25], inner[16::-1]])
    lower = np.concatenate([outer[24:], outer[:1], inner[:1], inner[:15:-1]])
    color = identity.lip_color
    stack.add(inner, L.MOUTH, L.ON_SKIN, (0.035, 0.012, 0.012), (0.97,), L.G_MOUTH)
    if x.mouth > 0.9:
        teeth = (0.62, 0.58, 0.52)
        stack.add(seen["teeth"], L.KEEP, L.ON_SKIN, teeth, (0.97,), L.G_MOUTH, L.G_MOUTH, -1)
    stack.add(upper, L.U_LIP, L.ON_SKIN, 0.82 * color, (0.86, 0.0, 0.0, 0.0, 0.8), L.G_FEATURE)
    stack.add(lower, L.L_LIP, L.ON_SKIN, color, (0.86, 0.0, 0.0, 0.0, 1.6), L.G_FEATURE)
    if x.mouth <= 0.9:
        stack.add(seen["lips_line"], L.KEEP, L.ON_SKIN, 0.15 * color, (0.8,), L.G_FEATURE, 0, -1)


def paint_marks(stack: L.LayerStack, identity: Identity, seen: dict[str, np.ndarray], x: Expression) -> None:
    """Moles, freckles, folds, bags and wrinkles."""
    s = identity.skin
    for name, marks in (("moles", s.moles), ("freckles", s.freckles)):
        if len(marks):
            stack.spots(seen[name], marks[:, 2], marks[:, 3:] * _MARK)
    for side, sign in (("l_", -1), ("r_", 1)):
        a, b, c = seen[side + "fold"]
        depth = 1.0 - min(0.75, 0.5 * s.folds + 0.3 * x.smile)
        for p, q in ((a, b), (b, c)):
            v = q - p
            stack.spot(0.5 * (p + q), (0.42 * float(np.hypot(*v)), 1.3), (depth, 0.94 * depth, 0.92 * depth), float(np.arctan2(v[1], v[0])))  # fmt: skip
        eye = seen[side + "eye"]
        under = eye[14:22].mean(0) + (0, 2.6)
        stack.spot(under, (5.5, 1.4), (1 - 0.5 * s.eye_bags, 1 - 0.56 * s.eye_bags, 1 - 0.5 * s.eye_bags), 0.1 * sign)
    if s.wrinkles > 0.05 or x.raised > 1.2:
        depth = 1.0 - min(0.4, 0.5 * s.wrinkles + 0.08 * max(x.raised, 0))
        top = 0.5 * (seen["l_browline"][2] + seen["r_browline"][2])
        for k in (6, 10, 14):
            stack.spot(top - (0, k), (12, 0.9), (depth, depth, depth))


def paint_shadows(stack: L.LayerStack, light: Lighting, seen: dict[str, np.ndarray]) -> None:
    """Soft shadows that the surface's own shading does not know: beside and under the nose, in the sockets, under the lip."""
    hard, (dx, dy, _) = light.hardness, light.direction
    tip, base = seen["bridge"][3], seen["nose_base"][2]
    side = 1.0 - 0.55 * hard * min(1.0, abs(dx) * 1.4)
    stack.spot(tip + (-9.0 * np.sign(dx) * min(1, abs(dx) * 2), 0.0), (5.5, 9.0), (side, side, side))
    under = 1.0 - (0.25 + 0.4 * hard) * max(0.0, -dy + 0.25)
    stack.spot(base + (-3 * dx, 2.0), (8.0, 3.2), (under, 0.97 * under, 0.97 * under))
    socket = 1.0 - 0.4 * max(0.0, -dy)
    for name in ("l_eye", "r_eye"):
        stack.spot(seen[name].mean(0) - (0, 4.0), (8.5, 3.6), (socket, socket, socket))
    stack.spot(seen["lips_outer"][36] + (0, 3.0), (7.0, 1.9), (0.8, 0.77, 0.77))
