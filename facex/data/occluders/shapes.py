"""Filled shapes of one colour: rectangle, ellipse, polygon (MSML's training occluders)."""

from __future__ import annotations

import math

import cv2
import numpy as np

from facex.data.occluders.base import Occluder, random_color


class Rectangle(Occluder):
    """An axis-aligned rectangle inside the picture: its area is a share 0..0.35 of it, in steps of 0.01; width first,
    then the height that gives the area; a uniform place and colour."""

    name = "rectangle"
    steps = 36  # shares 0, 0.01, ..., 0.35

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """See the class."""
        height, width = mask.shape
        share = rng.randint(0, self.steps) * 0.01
        w = int(rng.randint(int(width * share) + 1, width + 1))
        h = int(int(width * height * share) / w)
        x, y = rng.randint(0, width - w + 1), rng.randint(0, height - h + 1)
        color = random_color(image, 0, rng)
        image[y : y + h, x : x + w] = color if image.ndim == 3 else color[0]
        mask[y : y + h, x : x + w] = 255


class Ellipse(Occluder):
    """An axis-aligned ellipse: its centre in the middle three fifths, its vertical half axis from 20 pixels up to the
    nearer edge, its area 0.2..0.4 of the picture before the edges cut it."""

    name = "ellipse"
    area = (0.2, 0.4)
    shortest = 20  # pixels

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """See the class."""
        height, width = mask.shape
        cy = int(rng.randint(height // 5, 4 * height // 5))
        cx = int(rng.randint(width // 5, 4 * width // 5))
        reach = min(cy, height - cy)
        ay = int(rng.randint(min(self.shortest, reach - 1), reach))
        ax = int(height * width * rng.uniform(*self.area) / (3.14 * ay))
        rng.randint(1, 256)  # MSML draws a number here that it does not use
        color = random_color(image, 1, rng)
        cv2.ellipse(image, (cx, cy), (ax, ay), 0, 0, 360, color, -1)
        cv2.ellipse(mask, (cx, cy), (ax, ay), 0, 0, 360, 255, -1)


class Polygon(Occluder):
    """A star-like polygon of 4..10 outer corners on a circle of radius H/5..1.3 H/5, with inner corners between them
    at 1/1.3..1/2.6 of it."""

    name = "polygon"
    inner = (1.3, 2.6)

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """See the class."""
        corners = self._corners(mask.shape[0], mask.shape[1], rng)
        rng.randint(1, 256)  # as for the ellipse
        color = random_color(image, 1, rng)
        cv2.fillPoly(image, [corners], color)
        cv2.fillPoly(mask, [corners], 255)

    def _corners(self, height: int, width: int, rng: np.random.RandomState) -> np.ndarray:
        """int32 [points, 2] (x, y)."""
        count = int(rng.randint(4, 11))
        cx, cy = int(rng.randint(height // 5, 4 * height // 5)), int(rng.randint(width // 5, 4 * width // 5))
        outer = int(rng.randint(height // 5, int(height * 1.3 // 5)))
        inner = outer / rng.uniform(*self.inner)
        step = 2 * math.pi / count
        outer_angle = inner_angle = 0.0
        points = [(cx + outer, cy)]
        for _ in range(count):
            outer_angle += step * rng.uniform(0.7, 1.3)
            points.append((int(cx + outer * math.cos(outer_angle)), int(cy + outer * math.sin(outer_angle))))
            if rng.random_sample() > 0.5:
                inner_angle += step * rng.uniform(0.6, 1.4)
                points.append((int(cx + inner * math.cos(inner_angle)), int(cy + inner * math.sin(inner_angle))))
        return np.array(points, np.int32)
