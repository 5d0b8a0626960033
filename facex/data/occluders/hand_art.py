"""Built-in hands: rounded fingers and a palm, lit from one side, in the range of skin tones."""

from __future__ import annotations

import numpy as np

from facex.data.occluders.art import Canvas, smooth_noise

COUNT = 16
WIDTH, HEIGHT = 128, 360  # the hand is the upper 160 pixels, the forearm goes on below it
_SKIN = ((0.96, 0.80, 0.71), (0.91, 0.71, 0.59), (0.81, 0.59, 0.43), (0.64, 0.42, 0.28), (0.44, 0.27, 0.18), (0.29, 0.18, 0.13))  # fmt: skip
# Of each finger: knuckle (x, y), length, radius, and how far it fans out (radians at full spread).
_FINGERS = (
    (41.0, 84.0, 46.0, 8.2, -0.22),
    (57.0, 77.0, 54.0, 8.8, -0.05),
    (73.0, 78.0, 50.0, 8.6, 0.10),
    (88.0, 87.0, 37.0, 7.3, 0.28),
)


class _Relief:
    """A height field built of rounded limbs; where two meet the higher one shows, with a crease between them."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.height = np.full(canvas.x.shape, -1.0, np.float32)
        self.cover = np.zeros(canvas.x.shape, np.float32)

    def limb(self, points: np.ndarray, radii: np.ndarray, lift: float = 0.0) -> None:
        """A chain of capsules through `points` [n, 2] with radii [n]."""
        x, y = self.canvas.x, self.canvas.y
        for (ax, ay), (bx, by), ra, rb in zip(points, points[1:], radii, radii[1:], strict=False):
            dx, dy = bx - ax, by - ay
            t = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-6), 0, 1)
            radius = ra + t * (rb - ra)
            away = np.hypot(x - ax - t * dx, y - ay - t * dy)
            inside = np.clip(radius - away + 0.5, 0, 1)
            rise = lift + radius * np.sqrt(np.clip(1 - (away / radius) ** 2, 0, 1))
            self.height = np.where(inside > 0, np.maximum(self.height, rise), self.height)
            self.cover = np.maximum(self.cover, inside)


def _finger(relief: _Relief, x: float, y: float, length: float, radius: float, angle: float, bend: float) -> np.ndarray:
    """Three phalanges; returns the tip (x, y, angle)."""
    points, a = [(x, y)], angle
    for share in (0.45, 0.3, 0.25):
        px, py = points[-1]
        points.append((px + np.sin(a) * share * length, py - np.cos(a) * share * length))
        a += bend
    relief.limb(np.array(points), radius * np.array([1.0, 0.97, 0.93, 0.8]), 1.0)
    return np.array([*points[-1], a - bend])


def _light(height: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Brightness of the relief under a lamp from above, to one side."""
    slope_y, slope_x = np.gradient(height)
    norm = np.sqrt(slope_x**2 + slope_y**2 + 1)
    lx, ly = rng.uniform(-0.55, 0.55), rng.uniform(-0.6, -0.2)
    return 0.52 + 0.58 * np.clip((-lx * slope_x - ly * slope_y + 0.75) / norm, 0, 1.2)


def _hand(rng: np.random.RandomState, skin: np.ndarray) -> np.ndarray:
    canvas = Canvas(WIDTH, HEIGHT)
    relief, spread = _Relief(canvas), rng.uniform(0, 1.1)
    wide = rng.uniform(0.9, 1.1)
    relief.limb(np.array([(64, 140), (64, 170), (64, 260), (64, 400)]), np.array([23.0, 22.0, 27.0, 31.0]))
    relief.limb(np.array([(63, 108), (63, 140)]), np.array([29.0, 25.0]), 2.0)
    relief.limb(np.array([(46, 92), (82, 94)]), np.array([13.0, 12.0]), 9.0)
    relief.limb(np.array([(44, 132), (25, 106), (17, 88)]) + rng.uniform(-3, 3, 2), np.array([14.0, 9.5, 7.5]), 8.0)
    tips = []
    for x, y, length, radius, fan in _FINGERS:
        bend, reach = rng.uniform(-0.06, 0.06), length * wide * rng.uniform(0.92, 1.05)
        tips.append((_finger(relief, x, y, reach, radius, fan * spread + rng.uniform(-0.03, 0.03), bend), radius))
    light, mottle = _light(relief.height, rng), 1 + 0.04 * smooth_noise(rng, HEIGHT, WIDTH, 10)
    flesh = skin * (light * mottle)[..., None] + np.array((0.06, 0.0, -0.01)) * (1 - light)[..., None]
    canvas.over(relief.cover, flesh)
    _nails(canvas, tips, skin)
    return canvas.finish()


def _nails(canvas: Canvas, tips: list[tuple[np.ndarray, float]], skin: np.ndarray) -> None:
    for (x, y, angle), radius in tips:
        u = (canvas.x - x) * np.cos(angle) + (canvas.y - y) * np.sin(angle)
        v = -(canvas.x - x) * np.sin(angle) + (canvas.y - y) * np.cos(angle)
        edge = (np.abs(u) / (0.52 * radius)) ** 3 + (np.abs(v) / (0.75 * radius)) ** 3
        canvas.over(np.clip((1.15 - edge) / 0.3, 0, 1), skin * 0.8 + np.array((0.2, 0.13, 0.12)), 0.75)


def hands() -> list[np.ndarray]:
    """Left and right hands with their forearms, fingers up."""
    rng, out = np.random.RandomState(404), []
    for number in range(COUNT):
        a, b = _SKIN[number % len(_SKIN)], _SKIN[rng.randint(0, len(_SKIN))]
        picture = _hand(rng, 0.8 * np.array(a) + 0.2 * np.array(b))
        out.append(np.ascontiguousarray(picture[:, ::-1]) if number % 2 else picture)
    return out
