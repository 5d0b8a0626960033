"""The points of one person's head: computed once, moved by expression and pose with one matrix product a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facex.synth.expression import Expression
from facex.synth.surface import Pose, Surface


class Cloud:
    """Named points of the head, on the surface of the neutral face or a little above it."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._xy: list[np.ndarray] = []
        self._dz: list[np.ndarray] = []
        self._moves: list[np.ndarray] = []

    def add(self, name: str, xy: np.ndarray, dz: float | np.ndarray = 0.0, jaw: bool = True) -> None:
        """Add the group `xy` [n, 2], `dz` above the surface; `jaw`: its points follow the chin when the mouth opens."""
        self.sizes[name] = len(xy)
        self._xy.append(xy)
        self._dz.append(dz if isinstance(dz, np.ndarray) else np.full(len(xy), dz))
        self._moves.append(np.full(len(xy), jaw))

    @property
    def xy(self) -> np.ndarray:
        return np.concatenate(self._xy)

    @property
    def dz(self) -> np.ndarray:
        return np.concatenate(self._dz)

    @property
    def moves(self) -> np.ndarray:
        return np.concatenate(self._moves)


class Head:
    """A person's points with their derivatives by the values of an expression, which moves them linearly.

    `moving(expression)` makes the groups that an expression changes, `fixed` are the others; the surface's vertices
    follow. `mouth_y`: from here downwards everything drops with the jaw.
    """

    def __init__(self, surface: Surface, moving: Callable[[Expression], Cloud], fixed: Cloud, mouth_y: float) -> None:
        neutral, probes = moving(Expression()), Expression.probes()
        clouds = [neutral, *(moving(x) for x, _ in probes)]
        n, xy = len(neutral.xy), np.concatenate([*(c.xy for c in clouds), fixed.xy])
        z = surface.depth(xy) + np.concatenate([*(c.dz for c in clouds), fixed.dz])
        points = np.concatenate([xy, z[:, None]], 1)
        variants, still = points[: n * len(clouds)].reshape(len(clouds), n, 3), points[n * len(clouds) :]
        self.base = np.concatenate([variants[0], still, surface.grid])
        shapes = np.zeros((len(probes), *self.base.shape))
        shapes[:, :n] = variants[1:] - variants[0]
        moves = np.concatenate([neutral.moves, fixed.moves, np.ones(len(surface.grid), bool)])
        share = np.clip((self.base[:, 1] - mouth_y) / 14.0, 0.0, 1.0)
        for shape, (expression, _) in zip(shapes, probes, strict=True):
            shape[:, 1] += moves * expression.jaw * share**2 * (3.0 - 2.0 * share)
        steps = np.array([step for _, step in probes])
        self._shapes = (shapes / steps[:, None, None]).reshape(len(probes), -1)
        self._vertices = n + len(still)
        ends = np.cumsum([0, *neutral.sizes.values(), *fixed.sizes.values()])
        names = [*neutral.sizes, *fixed.sizes]
        self._slices = {name: slice(int(ends[i]), int(ends[i + 1])) for i, name in enumerate(names)}

    def project(self, expression: Expression, pose: Pose) -> dict[str, np.ndarray]:
        """All groups as [n, 2] in the picture plane, and the surface's vertices as "grid" [n, 3]."""
        seen = pose.project(self.base + (expression.vector() @ self._shapes).reshape(-1, 3))
        flat = seen[:, :2]
        groups = {name: flat[where] for name, where in self._slices.items()}
        groups["grid"] = seen[self._vertices :]
        return groups
