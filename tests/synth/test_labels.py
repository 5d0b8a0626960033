"""The labels against other ways of sampling the same geometry."""

from __future__ import annotations

import numpy as np
import pytest

from facex.data.companions import KNOWN
from facex.synth import PARSING_SWAPS, Renderer
from facex.synth import layers as L
from facex.synth.renderer import TEMPLATE

SAMPLES = [(seed, 40 * seed + i, i % 7) for seed in range(4) for i in range(25)]


def majority(maps: np.ndarray, k: int) -> np.ndarray:
    """The most frequent value of every k x k block of [k*S, k*S]; the smallest wins a tie."""
    size = maps.shape[0] // k
    blocks = maps.reshape(size, k, size, k).transpose(0, 2, 1, 3).reshape(size, size, k * k)
    counts = np.stack([(blocks == value).sum(-1) for value in range(L.CLOTH + 1)])
    return counts.argmax(0)


def test_hundred_pictures_agree_with_a_render_of_four_times_the_size() -> None:
    small = [Renderer(seed).render(i, k) for seed, i, k in SAMPLES]
    large = [Renderer(seed, size=448).render(i, k) for seed, i, k in SAMPLES]
    both, either = np.zeros(19), np.zeros(19)
    for a, b in zip(small, large, strict=True):
        vote = majority(b.parsing, 4)
        for value in range(19):
            both[value] += ((a.parsing == value) & (vote == value)).sum()
            either[value] += ((a.parsing == value) | (vote == value)).sum()
        covered = majority((b.occlusion > 0).astype(np.uint8), 4) > 0
        union = (covered | (a.occlusion > 0)).sum()
        assert union == 0 or (covered & (a.occlusion > 0)).sum() >= 0.99 * union
        for points, fine in ((a.landmarks5, b.landmarks5), (a.landmarks68, b.landmarks68)):
            assert np.abs(points - ((fine + 0.5) / 4 - 0.5)).max() < 0.5
    assert (either > 0).sum() >= 18  # the hundred pictures hold (nearly) every class
    assert (both[either > 0] / either[either > 0]).min() >= 0.99


def inside(polygon: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Even-odd rule, in float64, for the sample points (axis[j], axis[i])."""
    odd = np.zeros((len(axis), len(axis)), bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        rows = (ay <= axis) != (by <= axis)
        if rows.any():
            odd[rows] ^= axis[None, :] < (ax + (axis[rows] - ay) * (bx - ax) / (by - ay))[:, None]
    return odd


@pytest.mark.parametrize("sample", [(0, 3, 1), (1, 12, 0), (2, 25, 4), (3, 8, 2)])
def test_maps_agree_with_polygons_drawn_by_numpy(sample: tuple[int, int, int]) -> None:
    seed, identity, index = sample
    face = Renderer(seed).render(identity, index)
    arrays = Renderer(seed).plan(identity, index).arrays
    k = 5  # another grid of samples than the renderer's
    axis = (np.arange(112 * k) + 0.5) / k - 0.5
    shape = (112 * k, 112 * k)
    layer_of, label, covered = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, bool)
    groups = arrays["layers"][:, 2].astype(int)
    for i, row in enumerate(arrays["layers"]):
        polygon = arrays["points"][arrays["offsets"][i] : arrays["offsets"][i + 1]].astype(np.float64)
        if len(polygon) < 3:
            continue
        where = inside(polygon, axis)
        if row[3]:
            where &= (groups[layer_of] & int(row[3])) != 0
        layer_of[where] = i
        if row[0] >= 0:
            label[where] = int(row[0])
        if row[4] >= 0:
            covered[where] = bool(row[4])
    vote = majority(label, k)
    assert (vote == face.parsing).mean() > 0.99
    assert ((majority(covered.astype(int), k) > 0) == (face.occlusion > 0)).mean() > 0.998
    for value in np.unique(vote):
        area = vote == value
        if area.sum() > 150 and value != L.GLASSES:  # frames are two pixels wide: any two grids differ there
            assert (area & (face.parsing == value)).sum() / (area | (face.parsing == value)).sum() > 0.94


def test_landmarks_are_where_the_masks_end() -> None:
    checked = 0
    for identity in range(70):
        face = Renderer(5, size=448).render(identity, 0, occluder="none")
        if face.flags["glasses"] or face.flags["hat"]:
            continue
        for label, corners in ((L.L_EYE, (36, 39)), (L.R_EYE, (42, 45))):
            ys, xs = np.nonzero(face.parsing == label)
            if len(xs) < 600:  # nearly closed, or hidden by hair
                continue
            ends = face.landmarks68[list(corners)]
            lids = face.landmarks68[corners[0] : corners[0] + 6, 1]
            if (face.parsing[ys.min() - 2 : ys.max() + 3, xs.min() - 4 : xs.max() + 5] == L.HAIR).any():
                continue
            assert abs(xs.min() - 0.5 - ends[0, 0]) < 2.0  # 0.5 px at 112; a pixel ends half a pixel from its centre
            assert abs(xs.max() + 0.5 - ends[1, 0]) < 2.0
            assert ys.min() - 2.0 < lids.min()
            assert lids.max() < ys.max() + 2.0
            checked += 1
        inner = face.landmarks68[60:68]
        ys, xs = np.nonzero(np.isin(face.parsing, (L.U_LIP, L.L_LIP, L.MOUTH)))
        assert abs(xs.min() - 0.5 - face.landmarks68[48, 0]) < 2.0
        assert abs(xs.max() + 0.5 - face.landmarks68[54, 0]) < 2.0
        assert xs.min() - 2.0 < inner[:, 0].min()
        assert inner[:, 0].max() < xs.max() + 2.0
    assert checked >= 30


def test_near_frontal_faces_are_aligned_to_the_template() -> None:
    faces = [Renderer(0).render(i, k) for i in range(30) for k in range(3)]
    error = np.stack([f.landmarks5 for f in faces]) - TEMPLATE
    assert np.abs(error.mean(0)).max() < 2.0
    assert np.median(np.hypot(error[..., 0], error[..., 1])) < 3.5


def test_left_and_right_are_the_images() -> None:
    face = Renderer(0).render(1, 0, occluder="none")
    for left, right in L.PARSING_SWAPS[:2]:
        a, b = (np.nonzero(face.parsing == value)[1].mean() for value in (left, right))
        assert a < b
    assert face.landmarks5[0, 0] < face.landmarks5[1, 0]
    assert face.landmarks68[0, 0] < face.landmarks68[16, 0]
    assert face.landmarks68[8, 1] > face.landmarks68[57, 1] > face.landmarks68[51, 1] > face.landmarks68[30, 1]


def test_occluders_cover_what_they_say() -> None:
    renderer = Renderer(3)
    for kind, labels in (("mask", {0}), ("scarf", {L.CLOTH}), ("strand", {L.HAIR}), ("sunglasses", {L.GLASSES})):
        free, hidden = renderer.render(4, 2, occluder="none"), renderer.render(4, 2, occluder=kind)
        assert not free.occlusion.any()
        assert hidden.occlusion.any()
        assert set(np.unique(hidden.parsing[hidden.occlusion > 0])) <= labels
        assert (hidden.parsing == free.parsing)[hidden.occlusion == 0].mean() > 0.98
        assert np.array_equal(free.landmarks68, hidden.landmarks68)
        assert hidden.flags["masked"] == (kind in ("mask", "scarf"))
    mask = renderer.render(4, 2, occluder="mask")
    x, y = mask.landmarks68[57].round().astype(int)
    assert mask.occlusion[y, x] == 255  # the mouth is under the mask
    assert mask.occlusion[int(mask.landmarks5[0, 1]), int(mask.landmarks5[0, 0])] == 0  # the eye is not


def test_parsing_without_a_card_exchanges_the_same_classes() -> None:
    assert KNOWN["parsing"].swaps == PARSING_SWAPS
