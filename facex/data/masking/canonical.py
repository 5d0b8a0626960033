"""The canonical face of the mask overlay: 68 landmarks with depth, and how a surface on it follows a real face.

Frame: pixels of the 112 px ArcFace crop, x to the right, y down, z towards the camera with 0 at the outer eye corners.
A face seen from the front; the numbers are means over rendered people (facex.synth).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from facex.errors import DataError

FRAME = 112
# iBUG order: jaw 17, brows 10, nose 9, eyes 12, lips 20.
LANDMARKS = np.array(
    [
        (21.0, 50.9, -25.6), (21.5, 60.3, -25.9), (22.7, 69.7, -22.7), (24.8, 78.9, -19.4),
        (28.2, 87.7, -15.1), (33.5, 95.4, -7.8), (40.1, 102.1, -2.0), (47.1, 108.2, 4.0),
        (56.0, 110.5, 9.1), (64.9, 108.2, 4.0), (71.9, 102.1, -2.0), (78.5, 95.4, -7.8),
        (83.8, 87.7, -15.1), (87.2, 78.9, -19.4), (89.2, 69.7, -22.7), (90.5, 60.3, -25.9),
        (91.0, 50.9, -25.6), (28.2, 40.5, -4.4), (33.1, 38.6, 3.5), (38.1, 38.2, 8.6),
        (43.0, 39.3, 12.2), (47.9, 40.7, 14.2), (64.1, 40.7, 14.2), (69.0, 39.3, 12.2),
        (73.9, 38.2, 8.6), (78.9, 38.6, 3.5), (83.8, 40.5, -4.4), (56.0, 53.2, 17.2),
        (56.0, 59.5, 20.4), (56.0, 65.8, 23.1), (56.0, 72.0, 25.7), (49.1, 77.6, 17.6),
        (52.5, 78.6, 18.0), (56.0, 79.0, 18.0), (59.5, 78.6, 18.0), (62.9, 77.6, 17.6),
        (31.7, 51.0, 0.0), (36.0, 48.2, 5.2), (40.3, 48.5, 8.3), (44.5, 51.8, 9.3),
        (40.3, 53.2, 7.3), (36.0, 52.9, 4.4), (67.4, 51.8, 9.3), (71.7, 48.5, 8.3),
        (76.0, 48.2, 5.2), (80.3, 51.0, 0.0), (76.0, 52.9, 4.4), (71.7, 53.2, 7.3),
        (42.5, 92.4, 12.0), (48.2, 90.2, 17.2), (52.7, 88.4, 18.5), (56.0, 89.3, 19.2),
        (59.3, 88.4, 18.5), (63.8, 90.2, 17.2), (69.5, 92.4, 12.0), (64.1, 95.5, 15.3),
        (59.8, 96.9, 15.9), (56.0, 97.2, 16.0), (52.2, 96.9, 15.9), (47.9, 95.5, 15.3),
        (44.1, 92.4, 13.8), (50.6, 92.2, 18.6), (56.0, 92.2, 19.7), (61.4, 92.2, 18.6),
        (67.9, 92.4, 13.8), (61.4, 92.6, 18.5), (56.0, 92.6, 19.6), (50.6, 92.6, 18.5),
    ]
)  # fmt: skip
# The five points to which ArcFace aligns: eyes, nose tip, mouth corners.
TEMPLATE5 = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
_REACH = 16.0  # pixels over which a landmark pulls the surface along
_STIFF = 0.3  # how little the surface gives in to single landmarks


def five_of(points68: np.ndarray) -> np.ndarray:
    """Eye centres (means of the corners), nose tip and mouth corners of 68 landmarks: [5, d]."""
    p = points68
    return np.stack([0.5 * (p[36] + p[39]), 0.5 * (p[42] + p[45]), p[30], p[48], p[54]])


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((len(points), 1))], 1)


@functools.cache
def _camera_solver() -> np.ndarray:
    """Least squares for the affine camera of 68 landmarks: [4, 68]."""
    return np.linalg.pinv(_homogeneous(LANDMARKS))


def _pull(points: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Weights [n, anchors] that spread displacements of the anchors smoothly over `points` (Gaussian kernel ridge)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((a[:, None, :2] - b[None, :, :2]) ** 2).sum(-1) / _REACH**2)

    return kernel(points, anchors) @ np.linalg.inv(kernel(anchors, anchors) + _STIFF * np.eye(len(anchors)))


def follow(points: np.ndarray) -> np.ndarray:
    """Weights [n, 68] that carry canonical `points` [n, 3] to a picture whose landmarks are [68, 2].

    The affine camera that explains the landmarks best, then what it leaves of them, spread smoothly: both are linear in
    the landmarks.
    """
    camera = _camera_solver()
    rest = np.eye(len(LANDMARKS)) - _homogeneous(LANDMARKS) @ camera
    return _homogeneous(points) @ camera + _pull(points, LANDMARKS) @ rest


def camera_axes(points68: np.ndarray) -> np.ndarray:
    """Right, down and towards the camera in canonical coordinates, each times the picture's scale: [3, 3].

    Raises DataError where the landmarks fix no face: all equal, or in one line.
    """
    right, down = (_camera_solver()[:3] @ points68).T.tolist()
    forward = (
        right[1] * down[2] - right[2] * down[1],
        right[2] * down[0] - right[0] * down[2],
        right[0] * down[1] - right[1] * down[0],
    )
    area = math.hypot(*forward)
    if not area > 1e-3 * max(math.hypot(*right), math.hypot(*down), 1e-3) ** 2:
        raise DataError(f"the {len(points68)} landmarks are equal or lie in one line: no face can be placed by them")
    return np.array([right, down, [each / math.sqrt(area) for each in forward]])


@functools.cache
def _five_solvers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For 5 points: the similarity [4, 10], a shy affine correction [4, 5], and their pull on the 68 [68, 5]."""
    five = five_of(LANDMARKS)
    x, y, one, zero = five[:, 0], five[:, 1], np.ones(5), np.zeros(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    h = _homogeneous(five - (56.0, 72.0, 0.0))
    shy = np.linalg.solve(h.T @ h + np.diag([400.0, 400.0, 150.0, 1.0]), h.T)
    return np.linalg.pinv(rows), shy, _pull(LANDMARKS, five)


def shape_of_five(points5: np.ndarray) -> np.ndarray:
    """68 landmarks [68, 2] of a face of which eyes, nose tip and mouth corners [5, 2] are known: the canonical shape by
    a similarity, with as much turn as the nose tells. Raises DataError where the five points are equal."""
    if not float(np.abs(points5 - points5.mean(0)).max()) > 0.5:
        raise DataError("the 5 landmarks are equal: no face can be placed by them")
    similar, shy, pull = _five_solvers()
    a, b, tx, ty = similar @ points5.T.reshape(-1)
    plane = np.array([(a, b), (-b, a)])
    five = five_of(LANDMARKS)
    shape = LANDMARKS[:, :2] @ plane + (tx, ty)
    correction = shy @ (points5 - five[:, :2] @ plane - (tx, ty))
    shape = shape + _homogeneous(LANDMARKS - (56.0, 72.0, 0.0)) @ correction
    return shape + pull @ (points5 - five_of(shape))


def landmarks_of(points: np.ndarray | None, height: int, width: int) -> np.ndarray:
    """68 landmarks float64 [68, 2] in a picture of `height` x `width`, from 68, from 5, or from none: then the picture
    is taken for an aligned ArcFace crop of its size.

    Raises DataError: another number of points, not finite, equal, or all outside of the picture.
    """
    if points is None:
        scale = np.array([width, height]) / FRAME
        return shape_of_five((TEMPLATE5 + 0.5) * scale - 0.5)
    points = np.asarray(points, np.float64)
    if points.shape not in ((68, 2), (5, 2)):
        raise DataError(f"a face mask is placed by landmarks [68, 2] or [5, 2], these are {list(points.shape)}")
    if not np.isfinite(points).all():
        raise DataError("the landmarks are not finite")
    inside = ((points >= -0.5) & (points <= (width - 0.5, height - 0.5))).all(1)
    if not inside.any():
        raise DataError(f"all {len(points)} landmarks lie outside of the picture of {width}x{height} pixels")
    return points if len(points) == 68 else shape_of_five(points)
