"""The z-buffer renderer against a loop over triangles and pixels in plain Python; textures, landmarks and assets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facex.data.masking_fma import MeshMask, face_box, landmarks_106_to_68, masked_texture, render, render_mesh
from facex.errors import DataError


def slow(vertices: np.ndarray, colors: np.ndarray, triangles: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel by pixel, triangle by triangle; the nearest wins, of equals the first."""
    image, depth = np.zeros((height, width, len(colors))), np.full((height, width), -np.inf)
    for a, b, c in triangles.T:
        p, q, r = (vertices[:2, k] for k in (a, b, c))
        z = vertices[2, [a, b, c]].mean()
        for y in range(height):
            for x in range(width):
                area = (r[0] - p[0]) * (q[1] - p[1]) - (r[1] - p[1]) * (q[0] - p[0])
                u = ((x - p[0]) * (q[1] - p[1]) - (y - p[1]) * (q[0] - p[0])) / area
                v = ((r[0] - p[0]) * (y - p[1]) - (r[1] - p[1]) * (x - p[0])) / area
                if u >= 0 and v >= 0 and u + v < 1 and z > depth[y, x]:
                    depth[y, x], image[y, x] = z, colors[:, [a, b, c]].mean(1)
    return image


def mesh(seed: int, points: int = 30, triangles: int = 25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vertices = rng.uniform([[-3], [-3], [0]], [[19], [15], [9]], (3, points))
    corners = np.stack([rng.permutation(points)[:3] for _ in range(triangles)], 1)
    return vertices, rng.random((3, points)), corners


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk", [1 << 20, 40])
def test_the_nearest_triangle_is_seen(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_CHUNK", chunk)
    vertices, colors, triangles = mesh(seed)
    image, covered = render_mesh(vertices, colors, triangles, 12, 16)
    np.testing.assert_allclose(image, slow(vertices, colors, triangles, 12, 16), atol=1e-12)
    assert np.array_equal(covered, image.any(-1)) and 0 < covered.mean() < 1


def test_of_equal_depths_the_first_is_seen_and_no_area_fills_the_box() -> None:
    vertices = np.array([[0, 4, 0, 4], [0, 0, 4, 4], [1, 1, 1, 1]], float)
    colors = np.eye(4)[:3]
    one, _ = render_mesh(vertices, colors, np.array([[0, 1], [1, 2], [2, 3]]), 5, 5)
    assert np.allclose(one[0, 0], colors[:, [0, 1, 2]].mean(1))
    _, covered = render_mesh(vertices, colors, np.array([[0], [1], [1]]), 5, 5)
    assert covered[0].all() and not covered[1:].any()
    assert not render_mesh(vertices, colors, np.zeros((3, 0), int), 5, 5)[1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, c, t: (v[:2], c, t), "a mesh has"),
        (lambda v, c, t: (v, c[:, 1:], t), "a mesh has"),
        (lambda v, c, t: (v, c, t.astype(float)), "whole numbers"),
        (lambda v, c, t: (v, c, t + 30), "names vertex"),
        (lambda v, c, t: (v * np.nan, c, t), "not finite"),
    ],
)
def test_meshes_that_cannot_be(change: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        render_mesh(*change(*mesh(0)), 12, 16)  # type: ignore[operator]


def test_landmarks() -> None:
    points = np.arange(212, dtype=float).reshape(106, 2)
    found = landmarks_106_to_68(points)
    assert found.shape == (68, 2)
    assert found[0].tolist() == points[[1, 2]].mean(0).tolist()
    assert found[30].tolist() == points[54].tolist() and found[67].tolist() == points[103].tolist()
    centre, side = face_box(np.array([[10.0, 20.0], [30.0, 60.0]]))
    assert centre.tolist() == [20.0, 40.0] and side == 48
    with pytest.raises(DataError, match="105 landmarks"):
        landmarks_106_to_68(points[1:])


def test_texture_without_draws_is_a_blend() -> None:
    rng = np.random.default_rng(0)
    face, mask, alpha = rng.random((8, 8, 3)), rng.random((8, 8, 3)), rng.random((8, 8))
    np.testing.assert_allclose(masked_texture(face, mask, alpha), face + alpha[..., None] * (mask - face))
    varied = [masked_texture(face, mask, alpha, np.random.RandomState(s)) for s in (0, 0, 1)]
    assert np.array_equal(varied[0], varied[1]) and not np.array_equal(varied[0], varied[2])


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A mesh over the whole of a texture of 16 x 16, and a half-transparent red template."""
    size = 16
    index = np.arange(size * size).reshape(size, size)
    squares = [index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]]
    a, b, c, d = (s.reshape(-1) for s in squares)
    np.savetxt(tmp_path / "face_ind.txt", index.reshape(-1), "%d")
    np.savetxt(tmp_path / "triangles.txt", np.concatenate([np.stack([a, b, c], 1), np.stack([d, c, b], 1)]), "%d")
    cv2.imwrite(str(tmp_path / "uv_face_mask.png"), np.full((size, size), 255, np.uint8))
    template = np.zeros((size, size, 4), np.uint8)
    template[8:, :, 2], template[8:, :, 3] = 255, 255
    cv2.imwrite(str(tmp_path / "0.png"), template)
    return tmp_path


def test_a_mask_is_put_on_a_face(assets: Path) -> None:
    mask = MeshMask.load(assets)
    template, alpha = mask.template(assets / "0.png")
    y, x = np.mgrid[0:16, 0:16].astype(float)
    positions = np.stack([x + 4, y + 2, np.ones_like(x)], -1)  # the face lies at (4, 2) of the picture
    image = np.full((24, 24, 3), 100, np.uint8)
    worn, covered = mask.put_on(image, positions, template, alpha)
    assert worn[15, 12].tolist() == [255, 0, 0] and worn[5, 12].tolist() == [100, 100, 100]
    assert worn[20, 20].tolist() == [100, 100, 100] and not covered[20, 20] and covered[15, 12]
    with pytest.raises(DataError, match="a position map of"):
        mask.put_on(image, positions[1:], template, alpha)


def test_assets_that_cannot_be(assets: Path) -> None:
    (assets / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not an RGBA picture"):
        MeshMask.load(assets).template(assets / "1.png")
    for name, text, message in (
        ("triangles.txt", "0 1 999", "places that are not there"),
        ("triangles.txt", "0 1 a", "cannot be read as numbers"),
        ("face_ind.txt", "0.5", "whole numbers"),
    ):
        kept = (assets / name).read_text()
        (assets / name).write_text(text)
        with pytest.raises(DataError, match=message):
            MeshMask.load(assets)
        (assets / name).write_text(kept)
    (assets / "uv_face_mask.png").unlink()
    with pytest.raises(DataError, match="cannot be read as a picture"):
        MeshMask.load(assets)
