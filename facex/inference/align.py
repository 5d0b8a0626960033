"""Alignment of a face by five points: a similarity to the template on which recognisers are trained, and the warp.

Points are (x, y) in pixels, pixel centres at integers, in the order left eye, right eye, nose, left and right corner of
the mouth (left in the picture). Sources: insightface python-package/insightface/utils/face_align.py; AdaFace
face_alignment/mtcnn_pytorch/src/align_trans.py and matlab_cp2tform.py.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from facex.errors import DataError

Convention = Literal["insightface", "adaface"]

# insightface's template for 112 x 112.
INSIGHTFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
# AdaFace's: the older template for 96 x 112 with more digits, 8 pixels to the right.
ADAFACE_TEMPLATE = np.array(
    [
        [30.29459953, 51.69630051],
        [65.53179932, 51.50139999],
        [48.02519989, 71.73660278],
        [33.54930115, 92.3655014],
        [62.72990036, 92.20410156],
    ],
    np.float32,
) + np.array([8, 0], np.float32)
# Of the usual 68 points: outer and inner corner of both eyes, tip of the nose, corners of the mouth.
_LEFT_EYE, _RIGHT_EYE, _NOSE, _MOUTH = (36, 39), (42, 45), 30, (48, 54)


def template(size: int = 112, convention: Convention = "insightface") -> np.ndarray:
    """The five points of an aligned face of `size` x `size` pixels: float32 [5, 2].

    Multiples of 112 scale the template; multiples of 128 scale it and put it in the middle (8 pixels further right at
    128), as insightface does. AdaFace has 112 alone. Raises DataError for other sizes.
    """
    if convention == "adaface":
        if size != 112:
            raise DataError(f"AdaFace aligns to 112 x 112, not {size}")
        return ADAFACE_TEMPLATE.copy()
    if convention != "insightface":
        raise DataError(f"unknown alignment {convention!r}; there are insightface and adaface")
    if size > 0 and size % 112 == 0:
        return INSIGHTFACE_TEMPLATE * np.float32(size / 112)
    if size > 0 and size % 128 == 0:
        return INSIGHTFACE_TEMPLATE * np.float32(size / 128) + np.array([8 * size / 128, 0], np.float32)
    raise DataError(f"an aligned face has a side of 112 or 128 pixels or a multiple, not {size}")


def five_points(points68: np.ndarray) -> np.ndarray:
    """Five points of the usual 68, [..., 68, 2] -> [..., 5, 2]: an eye is the middle between its two corners."""
    points = np.asarray(points68)
    if points.shape[-2:] != (68, 2):
        raise DataError(f"points of shape {points.shape}: [..., 68, 2] is wanted")
    eyes = [(points[..., a, :] + points[..., b, :]) / 2 for a, b in (_LEFT_EYE, _RIGHT_EYE)]
    return np.stack([*eyes, points[..., _NOSE, :], *(points[..., i, :] for i in _MOUTH)], -2)


def umeyama(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity (rotation, scale, shift; no reflection) that brings `points` [n, 2] nearest to `target` [n, 2] in
    the least-squares sense: float64 [2, 3], for [x, y, 1]. Source: Umeyama 1991, as scikit-image estimates it.

    Raises DataError for NaN, or for points that all coincide.
    """
    p, t = _points(points), _points(target)
    p_mean, t_mean = p.mean(0), t.mean(0)
    # Points as complex numbers: a similarity without reflection is one complex factor, here in closed form.
    a, b = _complex(p - p_mean), _complex(t - t_mean)
    spread = float(np.sum(np.abs(a) ** 2))
    if spread <= np.finfo(np.float64).eps * max(1.0, float(np.abs(p).max()) ** 2):
        raise DataError("the points of a face coincide: no alignment")
    factor = np.sum(np.conj(a) * b) / spread
    matrix = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([matrix, t_mean - matrix @ p_mean])


def inverse_least_squares(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """AdaFace's estimate: the similarity from `target` to `points` that fits best, inverted; and the same for the
    mirrored target, of which the one that lands nearer is taken. So the matrix may reflect. float64 [2, 3].

    It weighs errors in the source picture, where `umeyama` weighs them in the aligned one; up to 2 pixels apart for
    noisy points. Raises DataError for NaN, or for points or targets that coincide.
    """
    p, t = _points(points), _points(target)
    plain = _invert(umeyama(t, p))
    mirror = np.array([-1.0, 1.0])
    mirrored = _invert(umeyama(t * mirror, p)) * mirror[:, None]
    return min((plain, mirrored), key=lambda m: float(np.linalg.norm(p @ m[:, :2].T + m[:, 2] - t)))


def estimate(landmarks: np.ndarray, size: int = 112, convention: Convention = "insightface") -> np.ndarray:
    """Matrices that align faces by their five points, `landmarks` [..., 5, 2] -> float64 [..., 2, 3].

    Raises DataError for another shape, NaN, or points that coincide.
    """
    points = np.asarray(landmarks)
    if points.shape[-2:] != (5, 2):
        raise DataError(f"landmarks of shape {points.shape}: [..., 5, 2] is wanted (`five_points` reduces 68)")
    target = template(size, convention)
    fit = umeyama if convention == "insightface" else inverse_least_squares
    found = [fit(one, target) for one in points.reshape(-1, 5, 2)]
    return np.array(found).reshape(*points.shape[:-2], 2, 3)


def warp(image: np.ndarray, matrix: np.ndarray, size: int = 112) -> np.ndarray:
    """`image` [H, W] or [H, W, C] under `matrix` [2, 3], cut to size x size: bilinear, black outside the picture."""
    image = np.asarray(image)
    if image.ndim not in (2, 3) or not image.size:
        raise DataError(f"a picture of shape {image.shape}: [H, W] or [H, W, C] is wanted")
    return cv2.warpAffine(image, np.asarray(matrix, np.float64), (size, size), flags=cv2.INTER_LINEAR, borderValue=0)


def align(
    image: np.ndarray, landmarks: np.ndarray, size: int = 112, convention: Convention = "insightface"
) -> np.ndarray:
    """One face aligned: `image` uint8 [H, W, 3] in any colour order and its `landmarks` [5, 2] -> [size, size, 3]."""
    return warp(image, estimate(landmarks, size, convention), size)


def _points(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise DataError(f"points of shape {points.shape}: [n, 2] with at least two points is wanted")
    if not np.isfinite(points).all():
        raise DataError("the points of a face hold NaN or infinity")
    return points


def _complex(points: np.ndarray) -> np.ndarray:
    return points[:, 0] + 1j * points[:, 1]


def _invert(matrix: np.ndarray) -> np.ndarray:
    linear = matrix[:, :2]
    if abs(np.linalg.det(linear)) < 1e-12:
        raise DataError("the points of a face coincide: no alignment")
    inverse = np.linalg.inv(linear)
    return np.column_stack([inverse, -inverse @ matrix[:, 2]])
