"""IJB under blocks: every batch is occluded, every repeat counts, ranks and batches change nothing, pictures are
named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facex.data.occluders import Block
from facex.errors import DataError
from facex.eval.ijb import verify_templates
from facex.eval.ijb_files import Faces, IjbLists
from facex.eval.occlusion_ijb import embed_occluded, face_loader, verify_occluded
from facex.eval.occlusion_input import KeyedGenerators
from facex.eval.templates import insightface_templates
from facex.inference.align import template
from facex.inference.embed import embed_images
from tests.eval.tiny import Tiny, faces

PICTURES = faces(6, seed=5).reshape(12, 112, 112, 3)


def lists() -> IjbLists:
    """Six people, two templates of one picture each; every template against every other."""
    ids = np.arange(12)
    points = np.repeat(template()[None], 12, 0)
    listed = Faces([f"{i}.png" for i in ids], ids, ids + 100, points, np.linspace(0.5, 1, 12).astype(np.float32))
    first, second = np.triu_indices(12, 1)
    return IjbLists("IJBC", listed, first, second, first // 2 == second // 2, [], None)


def test_equals_a_loop_over_repeats() -> None:
    method, block, ijb = Tiny(), Block(30, 31, "black"), lists()
    found = verify_occluded(
        method, method.networks(), ijb, PICTURES.__getitem__, block, 3, fars=(0.1, 0.3), batch_size=5
    )
    for repeat in range(3):
        generators = KeyedGenerators(0, repr(block), repeat, False)
        occluded = np.stack([block.draw(image, generators(i))[0] for i, image in enumerate(PICTURES)])
        rows = embed_images(method, None, occluded, "rgb", flip=True).vector.numpy()
        pooled = insightface_templates(rows, ijb.faces.templates, ijb.faces.media, detector_scores=ijb.faces.scores)
        expected = verify_templates(pooled, ijb.first, ijb.second, ijb.issame, fars=(0.1, 0.3))
        assert found.aucs[repeat] == pytest.approx(expected.auc)
        assert {far: tars[repeat] for far, tars in found.tars.items()} == pytest.approx(expected.tar)
    assert len(set(found.aucs)) > 1
    assert found.tar(0.1).value == pytest.approx(found.tars[0.1].mean())


def test_the_last_batch_is_occluded_too() -> None:
    method, block = Tiny(), Block(50, 51, "white")
    whole = embed_occluded(method, method.networks(), PICTURES.__getitem__, 12, block, batch_size=12)
    parts = embed_occluded(method, method.networks(), PICTURES.__getitem__, 12, block, batch_size=5)
    np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-4)
    clean = verify_occluded(method, method.networks(), lists(), PICTURES.__getitem__, fars=(0.1,))
    assert len(clean.aucs) == 1
    with pytest.raises(DataError, match="0 repeats"):
        verify_occluded(method, method.networks(), lists(), PICTURES.__getitem__, block, 0)


def test_faces_are_aligned_and_missing_ones_named(tmp_path: Path) -> None:
    ijb = lists()
    cv2.imwrite(str(tmp_path / "0.png"), PICTURES[0][..., ::-1])
    (tmp_path / "2.png").write_bytes(b"no picture")
    load = face_loader(tmp_path, ijb.faces)
    assert np.array_equal(load(0), PICTURES[0])  # the landmarks are the template's: nothing moves
    with pytest.raises(DataError, match=r"1\.png \(line 2 of the list of faces\) is missing"):
        load(1)
    with pytest.raises(DataError, match=r"2\.png .* does not decode"):
        load(2)
    with pytest.raises(DataError, match="no such folder"):
        face_loader(tmp_path / "none", ijb.faces)
    method = Tiny()
    with pytest.raises(DataError, match=r"1\.png"):
        embed_occluded(method, method.networks(), load, 12, Block(10, 11))
