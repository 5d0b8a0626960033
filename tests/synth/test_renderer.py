"""Pictures: reproducible, alive, and different from person to person."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from facex.synth import OCCLUDERS, Renderer
from facex.synth.identity import make_identity
from facex.synth.native import render_layers


def test_same_key_same_picture_in_any_order() -> None:
    keys = [(5, 1), (2, 0), (5, 0), (900_000, 3)]
    first = Renderer(7).render_batch(keys)
    again = {key: Renderer(7).render(*key) for key in reversed(keys)}
    for key, face in zip(keys, first, strict=True):
        other = again[key]
        assert np.array_equal(face.image, other.image)
        assert np.array_equal(face.parsing, other.parsing)
        assert np.array_equal(face.occlusion, other.occlusion)
        assert np.array_equal(face.landmarks68, other.landmarks68)
        assert face.jpeg() == other.jpeg()
        assert face.flags == other.flags


def test_seed_identity_and_index_all_matter() -> None:
    pictures = [Renderer(s).render(i, k).image for s, i, k in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for a in range(4):
        for b in range(a):
            assert np.abs(pictures[a].astype(int) - pictures[b]).mean() > 8


def test_what_a_picture_is_made_of() -> None:
    face = Renderer(0).render(0, 0)
    assert face.image.shape == (112, 112, 3)
    assert face.image.dtype == face.parsing.dtype == face.occlusion.dtype == np.uint8
    assert face.landmarks5.shape == (5, 2)
    assert face.landmarks68.shape == (68, 2)
    assert face.landmarks5.dtype == face.landmarks68.dtype == np.float32
    assert face.parsing.max() <= 18
    assert set(np.unique(face.occlusion)) <= {0, 255}
    assert np.asarray(Image.open(io.BytesIO(face.jpeg()))).shape == (112, 112, 3)


def test_no_picture_is_blank_and_every_kind_of_occluder_occurs() -> None:
    faces = [Renderer(0).render(i, k) for i in range(60) for k in range(5)]
    assert min(f.image.std() for f in faces) > 10
    assert min((f.parsing == 1).mean() + (f.occlusion > 0).mean() for f in faces) > 0.08
    assert {f.occluder for f in faces} == set(OCCLUDERS)
    assert 0.1 < np.mean([f.flags["occluded"] for f in faces]) < 0.3


def test_identity_shows_in_geometry() -> None:
    """Distances between near-frontal landmarks tell people apart: the variance between people exceeds that within."""
    renderer = Renderer(1)
    table = []
    for i in range(25):
        rows = []
        for k in range(6):
            p = renderer.render(i, k, occluder="none").landmarks68
            unit = np.hypot(*(p[36:42].mean(0) - p[42:48].mean(0)))
            pairs = ((36, 39), (21, 22), (31, 35), (27, 33), (51, 57), (19, 37), (33, 51))
            rows.append([np.hypot(*(p[a] - p[b])) / unit for a, b in pairs])
        table.append(rows)
    values = np.array(table)
    ratio = values.mean(1).var(0) / values.var(1).mean(0)
    assert np.median(ratio) > 0.8


def test_identities_are_plain_functions_of_seed_and_number() -> None:
    a, b, c = make_identity(0, 4), make_identity(0, 4), make_identity(0, 5)
    assert np.array_equal(a.outline, b.outline)
    assert a.nose == b.nose
    assert a.nose != c.nose
    styles = {make_identity(0, i).hair.style for i in range(120)}
    assert len(styles) == 10


def test_backdrop_of_another_picture() -> None:
    renderer = Renderer(2)
    plain, swapped, source = renderer.render(0, 0), renderer.render(0, 0, backdrop=(9, 4)), renderer.render(9, 4)
    assert np.array_equal(plain.landmarks68, swapped.landmarks68)
    corner = (slice(0, 8), slice(0, 8))
    both = (swapped.parsing[corner] == 0) & (source.parsing[corner] == 0) & (swapped.occlusion[corner] == 0)
    assert both.any()
    assert not np.array_equal(plain.image, swapped.image)


@pytest.mark.parametrize("size", [64, 112, 160, 256])
def test_sizes_share_geometry(size: int) -> None:
    small, face = Renderer(0).render(3, 1), Renderer(0, size=size).render(3, 1)
    assert face.image.shape == (size, size, 3)
    assert np.allclose((face.landmarks68 + 0.5) * 112 / size - 0.5, small.landmarks68, atol=1e-3)
    share = [(f.parsing == 1).mean() for f in (small, face)]
    assert abs(share[0] - share[1]) < 0.01


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="size must be 16 to 4096"):
        Renderer(0, size=8)
    with pytest.raises(ValueError, match="unknown occluder 'hat'"):
        Renderer(0).render(0, 0, occluder="hat")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("layers", lambda a: a[:, :5], "layers must be"),
        ("offsets", lambda a: a[:-1], "offsets must be"),
        ("points", lambda a: np.full_like(a, np.nan), "points must lie"),
        ("light", lambda a: a[:3], "light must have 15"),
        ("albedo", lambda a: a[:2], "albedo must have the shape"),
        ("backdrop", lambda a: a[:1], "backdrop must be"),
        ("splats", lambda a: a[:, :3], "splats must be"),
    ],
)
def test_native_renderer_refuses_malformed_scenes(name: str, change, message: str) -> None:
    arrays = dict(Renderer(0).plan(0, 0).arrays)
    arrays[name] = change(arrays[name])
    with pytest.raises(ValueError, match=message):
        render_layers(size=112, factor=4, **arrays)
