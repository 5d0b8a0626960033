"""IJB templates and pairs against plain loops, TAR on 1e5 scores against scikit-learn, the lists with their errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from facex.errors import DataError
from facex.eval import templates as module
from facex.eval.facexzoo import evaluate_facexzoo
from facex.eval.fusion import fuse_views
from facex.eval.ijb import IJB_FARS, pair_scores, verify_templates
from facex.eval.ijb_files import read_ijb, read_pairs, read_subjects
from facex.eval.roc import auc, tar_at_far
from facex.eval.templates import Templates, insightface_templates, magface_templates

IMAGES, SIZE = 300, 6


@pytest.fixture(scope="module")
def faces() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "embeddings": rng.normal(size=(IMAGES, SIZE)).astype(np.float32),
        "templates": rng.integers(100, 130, IMAGES),
        "media": rng.integers(0, 4, IMAGES),
        "flipped": rng.normal(size=(IMAGES, SIZE)).astype(np.float32),
        "detector_scores": rng.random(IMAGES).astype(np.float32),
    }


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.sqrt(np.sum(row * row))


def pooled_by_hand(rows: np.ndarray, faces: dict[str, np.ndarray], each: bool, mean: bool) -> np.ndarray:
    out = []
    for t in sorted(set(faces["templates"].tolist())):
        mine = faces["templates"] == t
        media = [rows[mine & (faces["media"] == m)].mean(0) for m in sorted(set(faces["media"][mine].tolist()))]
        media = [unit(m) for m in media] if each else media
        out.append(np.mean(media, 0) if mean else unit(np.sum(media, 0)))
    return np.array(out)


@pytest.mark.parametrize("block", [1, 50, 65536])
def test_templates_by_hand(faces: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """All eight switches, and MagFace's two forms, whatever the block."""
    monkeypatch.setattr(module, "_BLOCK", block)
    base = (faces["embeddings"], faces["templates"], faces["media"])
    for n in (True, False):
        for d in (True, False):
            for f in (True, False):
                rows = faces["embeddings"].astype(float) + (faces["flipped"] if f else 0)
                rows = rows if n else np.array([unit(row) for row in rows])
                rows = rows * (faces["detector_scores"][:, None] if d else 1)
                found = insightface_templates(
                    *base,
                    flipped=faces["flipped"] if f else None,
                    detector_scores=faces["detector_scores"] if d else None,
                    keep_norm=n,
                )
                np.testing.assert_allclose(found.features, pooled_by_hand(rows, faces, False, False), rtol=1e-10)
                assert found.ids.tolist() == sorted(set(faces["templates"].tolist()))
    for weighted in (True, False):
        found = magface_templates(*base, magnitude_weighted=weighted)
        want = pooled_by_hand(faces["embeddings"].astype(float), faces, not weighted, True)
        np.testing.assert_allclose(found.features, want, rtol=1e-10)


def test_tar_on_many_scores_by_brute_force() -> None:
    """1e5 scores with ties: the kept points are scikit-learn's, both rules are plain searches."""
    rng = np.random.default_rng(1)
    same = rng.random(100_000) < 0.1
    scores = np.round(rng.normal(size=100_000) + 2 * same, 2)
    far, tar, _ = roc_curve(same, scores)
    nearest = {t: float(tar[::-1][np.argmin(np.abs(far[::-1] - t))]) for t in IJB_FARS}
    assert tar_at_far(scores, same, IJB_FARS, "nearest") == pytest.approx(nearest, abs=1e-12)
    every_far, every_tar, _ = roc_curve(same, scores, drop_intermediate=False)
    at_most = {t: float(every_tar[every_far <= t].max()) for t in IJB_FARS}
    assert tar_at_far(scores, same, IJB_FARS, "at_most") == pytest.approx(at_most, abs=1e-12)
    assert auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


def test_pairs_in_blocks(faces: dict[str, np.ndarray]) -> None:
    found = magface_templates(faces["embeddings"], faces["templates"], faces["media"], magnitude_weighted=True)
    rng = np.random.default_rng(3)
    first, second = rng.choice(found.ids, 100_000), rng.choice(found.ids, 100_000)
    place = {t: i for i, t in enumerate(found.ids.tolist())}
    left, right = (found.features[[place[t] for t in side.tolist()]] for side in (first, second))
    dots = np.sum(left * right, 1)
    np.testing.assert_allclose(pair_scores(found, first, second), dots, rtol=1e-10, atol=1e-12)
    cosine = dots / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    want = 1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi
    np.testing.assert_allclose(pair_scores(found, first, second, "angle"), want, atol=1e-7)
    result = verify_templates(found, first, second, rng.random(100_000) < 0.5, fars=(0.1,), rule="at_most")
    assert 0.08 < result.tar[0.1] < 0.12
    assert 0.45 < result.auc < 0.55


def test_bad_templates(faces: dict[str, np.ndarray]) -> None:
    base = (faces["embeddings"], faces["templates"], faces["media"])
    found = Templates(np.array([1, 5]), np.eye(2))
    with pytest.raises(DataError, match=r"template 7 \(entry 1 of the list\) has no images"):
        pair_scores(found, np.array([1, 7]), np.array([5, 5]))
    with pytest.raises(DataError, match="one length"):
        pair_scores(found, np.array([1]), np.array([5, 5]))
    with pytest.raises(DataError, match="unknown score"):
        pair_scores(found, np.array([1]), np.array([5]), "cosine")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="media of shape"):
        insightface_templates(*base[:2], base[2][:5])
    with pytest.raises(DataError, match="at least one image"):
        magface_templates(np.empty((0, 4)), np.empty(0, int), np.empty(0, int))
    broken = base[0].copy()
    broken[17, 2] = np.nan
    with pytest.raises(DataError, match="embeddings: image 17 holds NaN"):
        magface_templates(broken, *base[1:])
    with pytest.raises(DataError, match="flipped: image 17"):
        insightface_templates(*base, flipped=broken)
    with pytest.raises(DataError, match="detector_scores: image 17"):
        insightface_templates(*base, detector_scores=np.where(np.arange(IMAGES) == 17, np.nan, 1))


def test_fusion_equals_adding_raw_views_and_refuses_what_does_not_fit() -> None:
    rng = np.random.default_rng(4)
    raw = rng.normal(size=(2, 9, 5))
    norms = np.linalg.norm(raw, axis=2, keepdims=True)
    fused, length = fuse_views(raw / norms, norms)
    np.testing.assert_allclose(fused * length, raw.sum(0))
    np.testing.assert_allclose(fuse_views(raw / norms, None, "average")[1], 1)
    with pytest.raises(DataError, match="needs the lengths"):
        fuse_views(raw, None)
    with pytest.raises(DataError, match="unknown fusion"):
        fuse_views(raw, norms, "sum")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="views, n, 1"):
        fuse_views(raw, norms[..., 0])
    opposite = raw / norms
    opposite[1, 3], norms[:, 3] = -opposite[0, 3], 1
    with pytest.raises(DataError, match="the views of face 3 cancel"):
        fuse_views(opposite, norms)


def test_facexzoo_by_hand() -> None:
    rng = np.random.default_rng(6)
    same = rng.random(200) < 0.5
    left = rng.normal(size=(200, 5))
    right = np.where(same[:, None], left, 0) + rng.normal(size=(200, 5))
    rows = np.stack([left, right], 1).reshape(400, 5)
    scores = np.array([unit(a) @ unit(b) for a, b in zip(left, right, strict=True)])
    accuracy = []
    for k in range(10):
        test = np.arange(200) // 20 == k
        s, y = scores[~test], same[~test]
        grid = s.min() + (s.max() - s.min()) / 1000 * np.arange(1, 1001)
        best = grid[np.argmax([np.mean(s[y] > t) - np.mean(s[~y] > t) for t in grid])]
        accuracy.append((np.sum(scores[test & same] > best) + np.sum(scores[test & ~same] < best)) / 20)
    found = evaluate_facexzoo(rows, same)
    np.testing.assert_allclose(found.fold_accuracy, accuracy)
    assert found.standard_error == pytest.approx(np.std(accuracy, ddof=1) / np.sqrt(10))
    with pytest.raises(DataError, match="do not divide"):
        evaluate_facexzoo(rows, same, 7)
    with pytest.raises(DataError, match="at least two"):
        evaluate_facexzoo(rows, same, 1)


def write_lists(folder: Path) -> Path:
    meta = folder / "IJBC" / "meta"
    meta.mkdir(parents=True)
    points = " ".join(str(float(i)) for i in range(10))
    (meta / "ijbc_face_tid_mid.txt").write_text("1.jpg 5 69544\n2.jpg 5 12\n3.jpg 9 12\n\n")
    (meta / "ijbc_name_5pts_score.txt").write_text("".join(f"{i}.jpg {points} 0.9{i}\n" for i in (1, 2, 3)))
    (meta / "ijbc_template_pair_label.txt").write_text("5 9 0\n5 5 1\n")
    (meta / "ijbc_1N_gallery_G1.csv").write_text("TEMPLATE_ID,SUBJECT_ID,FILENAME\n9,3,a.jpg\n5,1,b.jpg\n5,1,c.jpg\n")
    (meta / "ijbc_1N_gallery_G2.csv").write_text("TEMPLATE_ID,SUBJECT_ID\n9,3\n")
    (meta / "ijbc_1N_probe_mixed.csv").write_text("TEMPLATE_ID,SUBJECT_ID\n5,1\n")
    return meta


def test_lists(tmp_path: Path) -> None:
    meta = write_lists(tmp_path)
    for folder in (tmp_path, meta):
        found = read_ijb(folder)
        assert found.faces.names == ["1.jpg", "2.jpg", "3.jpg"]
        assert found.faces.templates.tolist() == [5, 5, 9]
        assert found.faces.media.tolist() == [69544, 12, 12]
        assert found.faces.landmarks[2].ravel().tolist() == list(range(10))
        np.testing.assert_allclose(found.faces.scores, [0.91, 0.92, 0.93])
        assert (found.first.tolist(), found.second.tolist(), found.issame.tolist()) == ([5, 5], [9, 5], [False, True])
        assert [g.templates.tolist() for g in found.galleries] == [[5, 9], [9]]
        assert found.galleries[0].subjects.tolist() == [1, 3]
        assert found.probes is not None
    for name in ("ijbc_1N_gallery_G1.csv", "ijbc_1N_gallery_G2.csv", "ijbc_1N_probe_mixed.csv"):
        (meta / name).unlink()
    assert read_ijb(meta).galleries == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ijbc_face_tid_mid.txt", "1.jpg 5 1\n2.jpg 5\n", "ijbc_face_tid_mid.txt, line 2: 2 columns, 3 are wanted"),
        ("ijbc_face_tid_mid.txt", "1.jpg 5 1\n\n2.jpg x 1\n", "line 3: 'x 1' is not whole numbers"),
        ("ijbc_face_tid_mid.txt", "1.jpg 5 1\n2.jpg 5 1\n", "2 rows and .* has 3"),
        ("ijbc_face_tid_mid.txt", "1.jpg 5 1\n3.jpg 5 1\n2.jpg 9 1\n", "line 2: .* says '3.jpg' and .* says '2.jpg'"),
        ("ijbc_face_tid_mid.txt", "", "the list is empty"),
        ("ijbc_name_5pts_score.txt", "1.jpg 1 2 3\n", "line 1: 4 columns, 12 are wanted"),
        ("ijbc_name_5pts_score.txt", f"1.jpg {'1 ' * 10}nan\n", "not finite numbers"),
        ("ijbc_template_pair_label.txt", "5 9 0\n5 77 1\n", "line 2: the second template 77 has no picture"),
        ("ijbc_template_pair_label.txt", "5 9 2\n", "line 1: the label is 2, not 0 or 1"),
        ("ijbc_template_pair_label.txt", "5 9 \xff".encode("latin-1"), "cannot be read"),
        ("ijbc_1N_gallery_G1.csv", "T,S\n5,1\n9,3\n5,2\n", "line 4: template 5 belongs to subjects 1 and 2"),
    ],
)
def test_bad_lists(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    meta = write_lists(tmp_path)
    (meta / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_ijb(meta)


def test_missing_lists(tmp_path: Path) -> None:
    meta = write_lists(tmp_path)
    with pytest.raises(DataError, match="unknown IJB set 'IJBA'"):
        read_ijb(meta, "IJBA")
    (meta / "ijbc_1N_gallery_G2.csv").unlink()
    with pytest.raises(DataError, match="all three are needed"):
        read_ijb(meta)
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(meta / "nothing.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_subjects(meta / "nothing.csv")
