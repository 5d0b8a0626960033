"""Alignment: exact on similarities, optimal on noise, reflection only where AdaFace's convention has it, sizes, errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facex.errors import DataError
from facex.inference.align import (
    align,
    estimate,
    five_points,
    inverse_least_squares,
    template,
    umeyama,
    warp,
)

RNG = np.random.default_rng(0)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def similarity(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


@pytest.mark.parametrize("fit", [umeyama, inverse_least_squares])
def test_exact_similarities_are_found(fit: object) -> None:
    for scale, angle, shift in ((1.0, 0.0, (0, 0)), (0.3, 2.5, (40, -7)), (5.0, -1.0, (-200, 300))):
        matrix = similarity(scale, angle, shift)
        points = RNG.normal(size=(5, 2)) * 20
        np.testing.assert_allclose(fit(points, apply(matrix, points)), matrix, atol=1e-9)  # type: ignore[operator]


def test_umeyama_is_the_best_similarity() -> None:
    """Against the textbook solution by SVD, and no small change of it does better."""
    target = template(112).astype(float)
    for _ in range(20):
        points = target * 1.7 + RNG.normal(size=(5, 2)) * 8 + 30
        found = umeyama(points, target)
        p, t = points - points.mean(0), target - target.mean(0)
        u, d, vt = np.linalg.svd(t.T @ p / 5)
        sign = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
        linear = np.trace(np.diag(d) @ sign) / p.var(0).sum() * u @ sign @ vt
        np.testing.assert_allclose(found[:, :2], linear, atol=1e-10)
        best = np.sum((apply(found, points) - target) ** 2)
        for _ in range(10):
            other = found + similarity(1e-3, RNG.uniform(0, 6), (1e-3, -1e-3))
            assert np.sum((apply(other, points) - target) ** 2) > best


def test_the_inverse_is_best_in_the_source_picture() -> None:
    target = template(112, "adaface").astype(float)
    points = target * 1.7 + RNG.normal(size=(5, 2)) * 8
    back = np.vstack([inverse_least_squares(points, target), [0, 0, 1]])
    error = np.sum((apply(np.linalg.inv(back)[:2], target) - points) ** 2)
    back = np.vstack([umeyama(points, target), [0, 0, 1]])
    assert error < np.sum((apply(np.linalg.inv(back)[:2], target) - points) ** 2)


def test_only_adaface_reflects() -> None:
    mirrored = template(112) * [-1, 1] + [112, 0]
    assert np.linalg.det(estimate(mirrored)[:, :2]) > 0
    reflection = estimate(mirrored, convention="adaface")
    assert np.linalg.det(reflection[:, :2]) < 0
    assert np.abs(apply(reflection, mirrored) - template(112, "adaface")).max() < 1e-3


def test_templates_and_sizes() -> None:
    np.testing.assert_allclose(template(224), 2 * template(112), rtol=1e-6)
    np.testing.assert_allclose(template(256), 2 * template(128), rtol=1e-6)
    np.testing.assert_allclose(template(128), template(112) + [8, 0], rtol=1e-6)
    for size in (0, 100, 120):
        with pytest.raises(DataError, match=f"not {size}"):
            template(size)
    with pytest.raises(DataError, match="AdaFace aligns to 112"):
        template(128, "adaface")
    with pytest.raises(DataError, match="unknown alignment"):
        template(112, "dlib")  # type: ignore[arg-type]


def test_five_of_sixty_eight() -> None:
    points = RNG.normal(size=(3, 68, 2))
    found = five_points(points)
    assert found.shape == (3, 5, 2)
    np.testing.assert_allclose(found[1, 0], (points[1, 36] + points[1, 39]) / 2)
    np.testing.assert_allclose(found[1, 1], (points[1, 42] + points[1, 45]) / 2)
    np.testing.assert_array_equal(found[:, 2:], points[:, [30, 48, 54]])
    with pytest.raises(DataError, match="68, 2"):
        five_points(points[:, :5])


def test_warp_moves_the_face_onto_the_template() -> None:
    """Discs at the landmarks of a turned face come to lie at the template's points; outside the picture is black."""
    matrix = similarity(1.4, 0.5, (60.0, -10.0))
    landmarks = apply(matrix, template(112).astype(float))
    image = np.full((160, 220, 3), 90, np.uint8)
    for x, y in landmarks:
        cv2.circle(image, (round(x), round(y)), 4, (255, 255, 255), -1)
    face = align(image, landmarks)
    assert face.shape == (112, 112, 3)
    for x, y in template(112):
        assert face[round(y), round(x)].min() > 240
    corners = apply(matrix, np.array([[0.0, 0], [111, 0], [0, 111], [111, 111]]))
    for (x, y), value in zip(corners, face[[0, 0, 111, 111], [0, 111, 0, 111], 0], strict=True):
        assert value == (90 if 1 < x < 218 and 1 < y < 158 else 0)
    assert warp(image[..., 0], estimate(landmarks), 112).shape == (112, 112)


def test_many_at_once() -> None:
    points = RNG.normal(size=(2, 3, 5, 2)) * 10 + 50
    found = estimate(points)
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(found[1, 2], estimate(points[1, 2]))


@pytest.mark.parametrize("convention", ["insightface", "adaface"])
def test_bad_points(convention: str) -> None:
    with pytest.raises(DataError, match="coincide"):
        estimate(np.full((5, 2), 17.3), 112, convention)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="NaN"):
        estimate(np.full((5, 2), np.nan), 112, convention)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="5, 2"):
        estimate(np.zeros((68, 2)), 112, convention)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="picture of shape"):
        warp(np.zeros(5, np.uint8), np.eye(2, 3))
