"""The points of one person's head: computed once, moved by expression and pose with one matrix product a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facex.synth.expression import Expression
from facex.synth.surface import Pose, Surface


class Cloud:
    """Named points of the head. `xy` [n, 2] lie on the surface of the neutral face, or `dz` above it."""

    def __init__(self, surface: Surface, jaw: float, mouth_y: float) -> None:
        self._surface, self._jaw, self._mouth_y = surface, jaw, mouth_y
        self.slices: dict[str, slice] = {}
        self._xy: list[np.ndarray] = []
        self._dz: list[np.ndarray] = []
        self._moves: list[np.ndarray] = []
        self._size = 0

    def add(self, name: str, xy: np.ndarray, dz: float | np.ndarray = 0.0, jaw: bool = True) -> None:
        """Add a group; `jaw`: its points follow the chin when the mouth opens."""
        self.slices[name] = slice(self._size, self._size + len(xy))
        self._size += len(xy)
        self._xy.append(xy)
        self._dz.append(np.broadcast_to(np.asarray(dz, np.float64), len(xy)))
        self._moves.append(np.full(len(xy), jaw))

    def points(self) -> np.ndarray:
        """All points and then the vertices of the surface, [n, 3]."""
        xy = np.concatenate(self._xy)
        points = np.concatenate([xy, (self._surface.depth(xy) + np.concatenate(self._dz))[:, None]], 1)
        points = np.concatenate([points, self._surface.grid])
        moves = np.concatenate([*self._moves, np.ones(len(self._surface.grid), bool)])
        share = np.clip((points[:, 1] - self._mouth_y) / 14.0, 0.0, 1.0)
        points[:, 1] += moves * self._jaw * share**2 * (3.0 - 2.0 * share)
        return points


class Head:
    """The cloud of a person with its derivatives by the values of an expression (which move points linearly)."""

    def __init__(self, build: Callable[[Expression], Cloud]) -> None:
        neutral = build(Expression())
        self.slices = neutral.slices
        self.base = neutral.points()
        moved = [(build(x).points() - self.base) / step for x, step in Expression.probes()]
        self.shapes = np.stack(moved).reshape(len(moved), -1)

    def project(self, expression: Expression, pose: Pose) -> dict[str, np.ndarray]:
        """All groups as [n, 2] in the picture plane, and the surface's vertices as "grid" [n, 3]."""
        points = self.base + (expression.vector() @ self.shapes).reshape(-1, 3)
        seen = pose.project(points)
        flat = seen[:, :2]
        groups = {name: flat[where] for name, where in self.slices.items()}
        groups["grid"] = seen[max(where.stop for where in self.slices.values()) :]
        return groups
