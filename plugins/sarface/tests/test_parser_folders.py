"""Folders of pictures with label maps or with masks of parts: what belongs together, what is refused, alignment, packing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from facex_sarface import parser_command
from facex_sarface.celeba_masks import NUMBERINGS, PARTS, find_labelled, read_labelled
from facex_sarface.celeba_pack import LabelledPackOptions, face_points, fit, pack_labelled
from facex_sarface.parser_loading import load_parser
from facex_sarface.regions import LABELS

from facex.data import open_dataset
from facex.errors import ConfigError, DataError
from facex.inference.align import template
from facex.methods import Field
from plugins.sarface.tests.tiny_parser import tiny_parser

SIDE = 128


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)
    return path


def face(shift: int = 0) -> np.ndarray:
    """A label map [128, 128]: skin, eyes, brows, nose, mouth, hair, neck."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[:50, 30:100] = 13
    labels[24:110, 34:96] = 1
    labels[100:124, 50:80] = 17
    labels[48:54, 44:54], labels[48:54, 76:86] = 4, 5
    labels[40:43, 42:56], labels[40:43, 74:88] = 6, 7
    labels[56:74, 60:70] = 2
    labels[84:88, 52:78], labels[88:92, 50:80] = 11, 12
    return np.roll(labels, shift, 1)


def celeba(root: Path, count: int = 3) -> tuple[Path, Path]:
    """CelebAMask-HQ in small: pictures twice as large as their masks, which overlap."""
    for k in range(count):
        labels = face(2 * k)
        write(root / "img" / f"{k}.jpg", np.repeat(np.repeat(labels * 12, 2, 0), 2, 1))
        for label in np.unique(labels)[1:]:
            mask = (labels == label) | (
                (label == 1) & np.isin(labels, (2, 4, 5))
            )  # the skin goes on below nose and eyes
            write(root / "anno" / "0" / f"{k:05d}_{PARTS[label - 1]}.png", mask.astype(np.uint8) * 255)
    return root / "img", root / "anno"


def test_masks_are_painted_in_order(tmp_path: Path) -> None:
    labelled, missing = find_labelled(*celeba(tmp_path))
    assert [one.picture.name for one in labelled] == ["0.jpg", "1.jpg", "2.jpg"] and not missing
    for k, one in enumerate(labelled):
        image, labels = read_labelled(one)
        assert image.shape == (256, 256, 3) and np.array_equal(labels, face(2 * k))
    assert len(PARTS) == len(LABELS) - 1 and PARTS[12] == LABELS[13] and PARTS[16] == LABELS[17]


def test_label_maps_by_path_and_their_numbering(tmp_path: Path) -> None:
    for person in ("001", "002"):
        write(tmp_path / "img" / person / "front.jpg", face()[..., None].repeat(3, 2))
    raw = np.full((SIDE, SIDE), 255, np.uint8)
    raw[:40], raw[40:80], raw[80:100], raw[100:110] = 2, 10, 14, 4  # brow, nose, neck, left eye in the other numbering
    write(tmp_path / "maps" / "001" / "front.png", raw)
    labelled, missing = find_labelled(tmp_path / "img", tmp_path / "maps")
    assert len(labelled) == 1 and missing == [tmp_path / "img" / "002" / "front.jpg"]
    assert np.array_equal(read_labelled(labelled[0])[1], raw)
    found = read_labelled(labelled[0], "bisenet")[1]
    names = {255: "?", **dict(enumerate(LABELS))}
    assert [names[int(found[row, 0])] for row in (0, 40, 80, 100, 120)] == ["l_brow", "nose", "neck", "l_eye", "?"]
    assert sorted(NUMBERINGS["bisenet"]) == list(range(19))


def test_what_is_refused(tmp_path: Path) -> None:
    pictures, maps = celeba(tmp_path, 1)
    size = (40, 40)
    cases = [
        ("00000_beard.png", np.zeros((SIDE, SIDE), np.uint8), "'beard' is no part"),
        ("0.png", face(), "has labels already"),
        ("00000_hat.png", np.zeros(size, np.uint8), "masks of one picture have one size"),
        ("00000_hat.png", np.ones((SIDE, SIDE), np.uint8), "the largest value here is 1"),
    ]
    for name, values, message in cases:
        path = write(maps / "1" / name, values)
        with pytest.raises(DataError, match=message):
            read_labelled(find_labelled(pictures, maps)[0][0])
        path.unlink()
    other = tmp_path / "other"
    for values, message in [
        (np.full((SIDE, SIDE), 19, np.uint8), r"classes \[19\] are unknown"),
        (np.zeros((SIDE, 100), np.uint8), "100x128, 0.jpg is 256x256: another shape"),
        (np.zeros((SIDE, SIDE, 3), np.uint8), "not a label map"),
    ]:
        write(other / "0.png", values)
        with pytest.raises(DataError, match=message):
            read_labelled(find_labelled(pictures, other)[0][0])
    (other / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"0\.png: not a label map"):
        read_labelled(find_labelled(pictures, other)[0][0])
    with pytest.raises(DataError, match="no such folder"):
        find_labelled(pictures, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        find_labelled(maps.parent / "empty", maps)
    with pytest.raises(DataError, match=r"called after a picture .* after 0.jpg"):
        find_labelled(pictures, write(tmp_path / "third" / "x.png", face()).parent)


def test_faces_are_aligned_by_their_labels() -> None:
    labels = face(7)
    angle = cv2.getRotationMatrix2D((64, 64), 14, 0.8)
    turned = cv2.warpAffine(
        np.kron(labels, np.ones((4, 4), np.uint8)), angle * [[1, 1, 4], [1, 1, 4]], (512, 512), flags=0
    )
    image = np.repeat((turned == 12).astype(np.uint8)[..., None] * 255, 3, 2)
    aligned, maps = fit(image, turned, 112, align=True)
    points = face_points(maps)
    assert np.abs(points - template(112)[[0, 1, 3, 4]]).max() < 4  # four points, a similarity: not exact
    assert np.abs(points[:2, 1] - points[:2, 1].mean()).max() < 1  # upright
    for shown, wanted in zip(np.argwhere(aligned[..., 0] > 127).T, np.argwhere(maps == 12).T, strict=True):
        assert abs(shown.mean() - wanted.mean()) < 0.4  # picture and labels moved together
    glasses = np.where(np.isin(labels, (4, 5)), 3, labels).astype(np.uint8)
    assert np.allclose(face_points(glasses), face_points(labels))
    with pytest.raises(DataError, match="no two eyes and mouth"):
        face_points(np.where(labels == 4, 1, labels))
    with pytest.raises(DataError, match="not square"):
        fit(image[:100], turned[:100], 112, align=False)


def test_packing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, maps = celeba(tmp_path, 4)
    write(pictures / "9.jpg", np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(DataError, match=r"9.jpg: no label map and no masks \(1 such"):
        pack_labelled(pictures, maps, tmp_path / "set")
    argv = ["pack", str(pictures), str(maps), str(tmp_path / "set"), "--size", "64", "--held-out", "0.5"]
    assert parser_command.main([*argv, "--on-missing", "skip"]) == 0
    assert "2 pictures, 2 held out, 1 left out" in capsys.readouterr().out
    dataset = open_dataset(tmp_path / "set", fields=("image", "parsing"), threads=1)
    assert len(dataset) == 2 and dataset.kinds["parsing"] == Field("label_map", ((4, 5), (6, 7), (8, 9)))
    rows = dataset.allocate(2)
    dataset.read(np.arange(2), rows)
    assert np.array_equal(rows["parsing"][1].numpy(), face(4)[1::2, 1::2]) or np.array_equal(
        rows["parsing"][1].numpy(), face(4)[::2, ::2]
    )
    assert len(open_dataset(tmp_path / "set" / "held_out", fields=("image", "parsing"))) == 2
    with pytest.raises(ConfigError, match="size lies in"):
        LabelledPackOptions(size=4)


def test_scores_of_folders(tmp_path: Path) -> None:
    import torch

    pictures, maps = celeba(tmp_path / "faces", 2)
    torch.save(tiny_parser().parser.state_dict(), tmp_path / "p.pth")
    argv = ["eval", str(tmp_path / "p.pth"), str(pictures), "--maps", str(maps), "--json", str(tmp_path / "s.json")]
    assert parser_command.main([*argv, "--parser-size", "64", "--size", "64", "--device", "cpu"]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    parser, right, pixels = load_parser(tmp_path / "p.pth", size=64), 0, 0
    for one in find_labelled(pictures, maps)[0]:
        image, labels = fit(*read_labelled(one), 64, align=False)
        right += (parser.labels(torch.from_numpy(image)[None], "rgb")[0].numpy() == labels).sum()
        pixels += labels.size
    assert scores["pixels"] == pixels and scores["pixel_accuracy"] == pytest.approx(right / pixels)
