"""Face masks: the mesh renderer against arithmetic by hand, placement by landmarks, light, and `MaskFaces`."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from facex.data.draws import Draws
from facex.data.masking import TEMPLATES, FaceMask, MaskFaces, canonical, occluder, templates
from facex.data.masking.canonical import LANDMARKS, camera_axes, five_of, follow, landmarks_of, shape_of_five
from facex.data.masking.light import face_light
from facex.data.native import native
from facex.errors import ConfigError, DataError
from facex.methods.batch import Batch, Field
from facex.synth.renderer import Renderer

FRONT = (0, 0, 1, 1.0, 0.0, 1.0, 0, 0, 1, 1, 1)  # ambient light alone
EYES, MOUTH = slice(36, 48), slice(48, 68)


def render(vertices, triangles, texture, lamp=FRONT, samples=1, image=None) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((40, 50, 3), np.uint8) if image is None else image.copy()
    mask = np.zeros(image.shape[:2], np.uint8)
    vertices = np.array(vertices, np.float32)
    native().render_mesh(
        image,
        mask,
        vertices[:, :3],
        np.ascontiguousarray(vertices[:, 3:5]),
        np.array(triangles, np.int32),
        np.asarray(texture, np.float32),
        np.array(lamp, np.float32),
        samples,
    )
    return image, mask


def plain(*rgba: float) -> np.ndarray:
    return np.broadcast_to(np.array(rgba, np.float32), (4, 4, 4)).copy()


def inside(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Distance in pixels of every pixel centre to the nearest edge of a clockwise triangle, negative outside."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    away = np.full((height, width), np.inf)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
        away = np.minimum(away, ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / np.hypot(bx - ax, by - ay))
    return away


def test_a_triangle_covers_its_pixels_and_texture() -> None:
    rng = np.random.default_rng(0)
    u = np.tile((np.arange(64) + 0.5) / 64, (64, 1))
    texture = np.stack([u, u.T, np.full((64, 64), 0.5), np.ones((64, 64))], -1)
    tried = 0
    for _ in range(40):
        points, uv = rng.uniform((-8, -8), (58, 48), (3, 2)), rng.uniform(0.1, 0.9, (3, 2))
        a, b = points[1] - points[0], points[2] - points[0]
        area = a[0] * b[1] - a[1] * b[0]
        vertices = np.column_stack([points, [0, 0, 0], uv])
        image, mask = render(vertices, [(0, 1, 2)], texture)
        if area <= 0:  # it looks away
            assert not mask.any() and not image.any()
            continue
        away = inside(points, 40, 50)
        assert (mask[away > 1e-3] == 255).all() and not mask[away < -1e-3].any()
        ys, xs = np.nonzero(away > 1e-3)
        weights = np.linalg.solve(np.vstack([points.T, np.ones(3)]), np.stack([xs, ys, np.ones(len(xs))]))
        expected = 255 * np.column_stack([weights.T @ uv, np.full(len(xs), 0.5)])
        assert len(xs) == 0 or np.abs(image[ys, xs] - expected).max() <= 1.0
        tried += len(xs)
    assert tried > 500


def test_the_nearer_triangle_hides_the_other() -> None:
    near = [(5, 5, 2, 0, 0), (30, 5, 2, 0, 0), (5, 30, 2, 0, 0)]
    far = [(5, 5, 1, 1, 1), (30, 5, 1, 1, 1), (5, 30, 1, 1, 1)]
    texture = np.zeros((2, 2, 4))
    texture[0, 0], texture[1, 1] = (1, 0, 0, 1), (0, 1, 0, 1)
    for order in (near + far, far + near):
        image, mask = render(order, [(0, 1, 2), (3, 4, 5)], texture)
        assert (image[mask > 0] == (255, 0, 0)).all() and mask.any()


def test_light_and_alpha() -> None:
    tilt = [(5, 5, 0, 0, 0), (45, 5, 20, 0, 0), (45, 35, 20, 0, 0), (5, 35, 0, 0, 0)]
    direction = np.array([0.3, -0.4, 0.8]) / np.linalg.norm([0.3, -0.4, 0.8])
    normal = np.array([-20, 0, 40]) / np.hypot(20, 40)
    lamp = (*direction, 0.4, 0.5, 1.0, 0.004, -0.002, 0.9, 1.0, 0.8)
    image = render(tilt, [(0, 1, 2), (0, 2, 3)], plain(0.5, 0.6, 0.7, 1), lamp)[0]
    y, x = 12, 30
    light = (0.4 + 0.5 * normal @ direction) * (1 + 0.004 * x - 0.002 * y)
    assert np.abs(image[y, x] - 255 * light * np.array([0.5 * 0.9, 0.6, 0.7 * 0.8])).max() <= 1.0
    ground = np.full((40, 50, 3), 100, np.uint8)
    thin, area = render(tilt, [(0, 1, 2), (0, 2, 3)], plain(1, 1, 1, 0.4), image=ground)
    assert not area.any() and abs(int(thin[20, 25, 0]) - round(0.4 * 255 + 0.6 * 100)) <= 1
    assert render(tilt, [(0, 1, 2), (0, 2, 3)], plain(1, 1, 1, 0.6), image=ground)[1][20, 25] == 255


def test_samples_soften_edges_and_keep_areas() -> None:
    points = [(4.3, 3.1, 0, 0, 0), (41.7, 12.2, 0, 0, 0), (16.4, 33.3, 0, 0, 0)]
    exact = 0.5 * abs((41.7 - 4.3) * (33.3 - 3.1) - (12.2 - 3.1) * (16.4 - 4.3))
    hard, soft = (render(points, [(0, 1, 2)], plain(1, 1, 1, 1), samples=s)[0][..., 0] / 255 for s in (1, 4))
    assert set(np.unique(hard)) == {0, 1} and len(np.unique(soft)) > 5
    assert abs(soft.sum() - exact) < 3 and abs(hard.sum() - exact) < 10


def test_meshes_that_are_refused() -> None:
    good = [(5, 5, 0, 0, 0), (9, 5, 0, 0, 0), (5, 9, 0, 0, 0)]
    for vertices, triangles in [
        ([(float("nan"), 0, 0, 0, 0)] + good[1:], [(0, 1, 2)]),
        ([(1e9, 0, 0, 0, 0)] + good[1:], [(0, 1, 2)]),
        (good, [(0, 1, 3)]),
        (good, [(0, -1, 2)]),
    ]:
        with pytest.raises(ValueError):
            render(vertices, triangles, plain(1, 1, 1, 1))
    far = [(x + 1000, y, z, u, v) for x, y, z, u, v in good]
    assert not render(far, [(0, 1, 2)], plain(1, 1, 1, 1))[1].any()


# -- placement --------------------------------------------------------------------------------------------------------
def test_points_follow_landmarks_like_a_solid() -> None:
    points = templates.surface(0, "right", 112).canonical
    weights = follow(points)
    assert np.allclose(weights @ LANDMARKS[:, :2], points[:, :2], atol=1e-6)  # the canonical face itself
    turn = np.array([(0.9, -0.3), (0.3, 1.1)])
    moved = LANDMARKS[:, :2] @ turn + (7, -3)
    assert np.allclose(weights @ moved, points[:, :2] @ turn + (7, -3), atol=1e-6)
    axes = camera_axes(LANDMARKS[:, :2] * 2 + 5)
    assert np.allclose(axes, 2 * np.eye(3), atol=1e-6)


def test_five_points_give_nearly_the_same_shape() -> None:
    assert np.abs(shape_of_five(five_of(LANDMARKS[:, :2])) - LANDMARKS[:, :2]).max() < 1e-6
    renderer = Renderer(7, 112)
    for number in range(6):
        face = renderer.render(number, 0, occluder="none")
        error = np.linalg.norm(shape_of_five(face.landmarks5.astype(np.float64)) - face.landmarks68, axis=1)
        assert error.mean() < 5


@pytest.fixture(scope="module")
def faces() -> list:
    renderer = Renderer(3, 112)
    return [renderer.render(number, number % 3, occluder="none") for number in range(8)]


def covered(mask: np.ndarray, points: np.ndarray) -> float:
    x, y = np.clip(np.round(points), 0, 111).astype(int).T
    return float((mask[y, x] > 0).mean())


@pytest.mark.parametrize("template", [t.name for t in TEMPLATES])
def test_masks_cover_mouth_and_nose_and_no_eye(template: str, faces: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occluder, "_WORN_BOUNDS", np.array([1.0, 1.0, 1.0]))  # all worn right
    masker = FaceMask(templates=[template])
    for number, face in enumerate(faces):
        for points, least in ((face.landmarks68, 0.95), (face.landmarks5, 0.9)):
            mask = masker.draw_on(face.image, np.random.RandomState(number), points)[1]
            assert covered(mask, face.landmarks68[MOUTH]) >= least
            assert covered(mask, face.landmarks68[EYES]) == 0
            assert 0.08 < (mask > 0).mean() < 0.45
        assert covered(mask, face.landmarks68[30:31]) == 1  # the nose's tip


@pytest.mark.parametrize(("worn", "nose", "lip"), [("nose", 0, 1), ("lip", 0, 1), ("chin", 0, 0)])
def test_masks_that_are_worn_low(worn: str, nose: int, lip: int, faces: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occluder, "_WORN", (worn,) * 4)
    for number, face in enumerate(faces):
        mask = FaceMask(templates=["surgical"]).draw_on(face.image, np.random.RandomState(number), face.landmarks68)[1]
        assert covered(mask, face.landmarks68[29:30]) == nose and covered(mask, face.landmarks68[62:63]) == lip
        assert mask.any()


def test_a_mask_moves_with_the_landmarks(faces: list) -> None:
    face = faces[0]
    big = np.full((160, 160, 3), 120, np.uint8)
    masks = [FaceMask().draw_on(big, np.random.RandomState(5), face.landmarks68 + at)[1] for at in ((10, 12), (31, 25))]
    shifted = np.zeros_like(masks[0])
    shifted[13:, 21:] = masks[0][:-13, :-21]
    assert (shifted != masks[1]).mean() < 1e-3


def test_aligned_crops_need_no_landmarks(faces: list) -> None:
    points = landmarks_of(None, 112, 112)
    assert np.abs(five_of(points) - canonical.TEMPLATE5).max() < 3
    double = landmarks_of(None, 224, 224)
    assert np.allclose(double, (points + 0.5) * 2 - 0.5, atol=1e-6)
    masker = FaceMask(templates=["surgical"])
    for number, face in enumerate(faces):
        given, guessed = (
            masker.draw_on(face.image, np.random.RandomState(number), p)[1] > 0 for p in (face.landmarks68, None)
        )
        assert (given & guessed).sum() > 0.6 * (given | guessed).sum()


def test_the_mask_is_lit_like_the_face() -> None:
    points = landmarks_of(None, 112, 112)
    ramp = np.broadcast_to(np.linspace(60, 200, 112)[None, :, None], (112, 112, 3)).astype(np.uint8)
    _, b, c = face_light(ramp, points)
    assert b > 0.002 and abs(c) < 1e-3 and face_light(ramp[:, ::-1], points)[1] < -0.002
    right = FaceMask(colored=1.0).draw(ramp, np.random.RandomState(0))
    left = FaceMask(colored=1.0).draw(np.ascontiguousarray(ramp[:, ::-1]), np.random.RandomState(0))
    assert np.array_equal(right[1], left[1])
    half = (right[1] > 0) & (np.arange(112) > 65)
    assert right[0][half].mean() > 1.2 * left[0][half].mean()
    dark, bright = (
        FaceMask(colored=1.0).draw(np.full((112, 112, 3), v, np.uint8), np.random.RandomState(0)) for v in (30, 150)
    )
    assert dark[0][dark[1] > 0].mean() < 0.7 * bright[0][bright[1] > 0].mean()


def test_textures_of_ones_own(faces: list) -> None:
    texture = np.zeros((50, 70, 4), np.uint8)
    texture[...] = (220, 10, 10, 255)
    texture[20:30, 30:40, 3] = 0  # a hole in the middle
    image, mask = FaceMask([texture]).draw(faces[0].image, np.random.RandomState(1))
    full = FaceMask([texture[:10]]).draw(faces[0].image, np.random.RandomState(1))[1]
    assert 0 < (full > 0).sum() - (mask > 0).sum() < 0.1 * (full > 0).sum()
    red = image[mask > 0].astype(int)
    assert (red[:, 0] > 3 * red[:, 1]).mean() > 0.85


def test_landmarks_and_options_that_are_refused(faces: list) -> None:
    image, rng = faces[0].image, np.random.RandomState(0)
    good = faces[0].landmarks68
    for points, message in [
        (np.full((68, 2), 50.0), "equal"),
        (np.full((5, 2), 50.0), "equal"),
        (np.column_stack([np.arange(68.0), np.arange(68.0)]), "in one line"),
        (good + 500, "outside of the picture"),
        (np.where(np.arange(68)[:, None] == 3, np.nan, good), "not finite"),
        (good[:20], r"\[20, 2\]"),
    ]:
        with pytest.raises(DataError, match=message):
            FaceMask().draw_on(image, rng, points)
    with pytest.raises(ConfigError, match="did you mean 'surgical'"):
        FaceMask(templates=["surgica"])
    with pytest.raises(ConfigError):
        FaceMask(templates=[])
    with pytest.raises(ConfigError, match="no share"):
        FaceMask(colored=1.2)


# -- the transform ----------------------------------------------------------------------------------------------------
def make_batch(faces: list, **more) -> Batch:
    fields = {
        "image": torch.from_numpy(np.stack([f.image for f in faces])),
        "landmarks5": torch.from_numpy(np.stack([f.landmarks5 for f in faces])),
        "landmarks": torch.from_numpy(np.stack([f.landmarks68 for f in faces])),
    }
    kinds = {"image": Field("image"), "landmarks5": Field("points"), "landmarks": Field("points")}
    for name, (value, kind) in more.items():
        fields[name], kinds[name] = value, Field(kind)
    return Batch(fields, kinds, "rgb", 100 + torch.arange(len(faces)), torch.arange(len(faces)))


def test_masks_flags_and_what_was_there(faces: list) -> None:
    flag = torch.zeros(8, dtype=torch.bool)
    flag[2] = True
    worn = torch.zeros(8, 112, 112, dtype=torch.uint8)
    worn[:, 0] = 255
    batch = make_batch(faces, flag=(flag, "flag"), occlusion=(worn, "mask"))
    half = MaskFaces(0.5)(batch, Draws(0, 0, batch.position))
    touched = (half["image"] != batch["image"]).flatten(1).any(1)
    assert 0 < touched.sum() < 8
    assert torch.equal(half["flag"], touched | flag) and (half["occlusion"][:, 0] == 255).all()
    assert torch.equal((half["occlusion"][:, 1:] > 0).flatten(1).any(1), touched)
    assert torch.equal(half["landmarks"], batch["landmarks"])
    new = MaskFaces(1.0, flag="masked")(make_batch(faces), Draws(0, 0, batch.position))
    assert new["masked"].all() and new.kinds["masked"] == Field("flag") and new.kinds["occlusion"] == Field("mask")
    assert not MaskFaces(0.0)(batch, Draws(0, 0, batch.position))["occlusion"][:, 1:].any()


def test_which_landmarks_place_the_mask(faces: list) -> None:
    batch = make_batch(faces)
    draws = Draws(0, 0, batch.position)
    best = MaskFaces(1.0)(batch, draws)
    assert torch.equal(best["image"], MaskFaces(1.0, landmarks="landmarks")(batch, draws)["image"])
    five = MaskFaces(1.0, landmarks="landmarks5")(batch, draws)
    bare = replace(batch, kinds={"image": Field("image")}, fields={"image": batch["image"]})
    none = MaskFaces(1.0)(bare, draws)
    assert not torch.equal(best["image"], five["image"]) and not torch.equal(five["image"], none["image"])
    with pytest.raises(ConfigError, match="no field of 68 or 5 points"):
        MaskFaces(1.0, landmarks="image")(batch, draws)
    broken = batch.with_fields(landmarks=torch.where(torch.arange(8).view(-1, 1, 1) == 4, 9.0, batch["landmarks"]))
    with pytest.raises(DataError, match="sample 104 of the data: the 68 landmarks are equal"):
        MaskFaces(1.0)(broken, draws)
    for p in (-0.1, 1.5):
        with pytest.raises(ConfigError, match="no probability"):
            MaskFaces(p)


def test_textures_from_a_folder(faces: list, tmp_path) -> None:
    with pytest.raises(DataError, match=r"holds no \.png"):
        MaskFaces(1.0, textures=str(tmp_path))
    assert cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 20, 4), (10, 220, 10, 255), np.uint8))
    batch = make_batch(faces[:2])
    out = MaskFaces(1.0, textures=str(tmp_path))(batch, Draws(0, 0, batch.position))
    seen = out["image"][out["occlusion"] > 0].float().mean(0)
    assert seen[1] > 3 * seen[0] and seen[1] > 3 * seen[2]
