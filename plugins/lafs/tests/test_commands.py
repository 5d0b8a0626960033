"""`facex subset` and `facex lafs-landmarks`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from facex_lafs.finetune import LAFS
from facex_lafs.overlay import draw_landmarks, overlap
from facex_lafs.subset import SubsetOptions, choose, write_subset

from facex import cli
from facex.data import FaceSetWriter, open_dataset
from facex.errors import ConfigError, DataError

LABELS = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of four people in insightface's layout; one more class is empty."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    with FaceSetWriter(folder, 5, (16, 16)) as writer:
        for label in LABELS:
            writer.add(cv2.imencode(".png", rng.integers(0, 256, (16, 16, 3), np.uint8))[1].tobytes(), int(label))
    return folder


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, list(range(10))),
        ({"per_identity": 1}, [0, 3, 4, 6]),
        ({"per_identity": 2}, [0, 1, 3, 4, 5, 6, 7]),
        ({"fraction": 0.35}, [0, 1, 2]),
        ({"per_identity": 1, "fraction": 0.5}, [0, 3]),
        ({"fraction": 0.5, "unit": "identities"}, [0, 1, 2, 3]),
        ({"per_identity": 1, "fraction": 0.75, "unit": "identities"}, [0, 3, 4]),
    ],
)
def test_what_is_kept(options: dict[str, Any], kept: list[int]) -> None:
    assert choose(LABELS, SubsetOptions(**options)).tolist() == kept


def test_random_choices_keep_their_word() -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 300, 5000))
    few = choose(labels, SubsetOptions(per_identity=2, choice="random", seed=1))
    counts = np.unique(labels[few], return_counts=True)[1]
    assert counts.max() == 2
    assert len(counts) == len(np.unique(labels))
    assert not np.array_equal(few, choose(labels, SubsetOptions(per_identity=2, choice="random", seed=2)))
    assert np.array_equal(few, choose(labels, SubsetOptions(per_identity=2, choice="random", seed=1)))
    people = choose(labels, SubsetOptions(fraction=0.1, unit="identities", choice="random"))
    assert len(np.unique(labels[people])) == 30
    assert len(people) == np.isin(labels, labels[people]).sum()  # whole identities


def test_a_subset_holds_the_same_bytes_and_says_where_they_are_from(records: Path, tmp_path: Path) -> None:
    manifest = write_subset(records, tmp_path / "one", SubsetOptions(per_identity=1))
    assert (manifest["records"], manifest["identities"], manifest["source_records"]) == (4, 4, 10)
    assert manifest["positions"] == [0, 3, 4, 6]
    assert json.loads((tmp_path / "one" / "subset.json").read_text()) == manifest
    whole, part = open_dataset(records), open_dataset(tmp_path / "one")
    assert part.num_classes == 5  # the class count stays
    assert part.labels().tolist() == [0, 1, 2, 3]
    for k, place in enumerate(manifest["positions"]):
        assert part._payload(k) == whole._payload(place)
    write_subset(
        records, tmp_path / "two", SubsetOptions(fraction=0.5, unit="identities", choice="random", renumber=True)
    )
    renumbered = open_dataset(tmp_path / "two")
    assert renumbered.num_classes == 2
    assert sorted(set(renumbered.labels().tolist())) == [0, 1]


def test_the_command(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["subset", str(records), str(tmp_path / "out"), "--per_identity", "2", "--fraction", "0.5"]) == 0
    assert "3 of 10 records" in capsys.readouterr().out
    assert cli.main(["subset", str(records), str(tmp_path / "no"), "--fraction", "0"]) == 2
    assert "fraction=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "out", "options", "error", "message"),
    [
        ("missing", "x", {}, DataError, "no .rec file"),
        ("set", "set", {}, ConfigError, "is the set itself"),
        ("set", "x", {"fraction": 0.01}, DataError, "nothing is left of 10"),
        ("set", "x", {"per_identity": 0}, ConfigError, "per_identity=0"),
    ],
)
def test_subsets_that_cannot_be(
    source: str, out: str, options: dict[str, Any], error: type[Exception], message: str, records: Path, tmp_path: Path
) -> None:
    places = {"set": records, "missing": tmp_path / "missing", "x": tmp_path / "x"}
    places["missing"].mkdir(exist_ok=True)
    with pytest.raises(error, match=message):
        write_subset(places[source], places[out], SubsetOptions(**options))
    assert not (tmp_path / "x" / "train.rec").exists()


def test_overlap_of_patches_by_counting() -> None:
    torch.manual_seed(0)
    landmarks = torch.rand(2, 5, 2) * 20 - 2
    found = overlap(landmarks, 4, 16)
    for b in range(2):
        hits, outside = np.zeros((16, 16)), 0
        for x, y in landmarks[b].tolist():
            for dx in range(4):
                for dy in range(4):
                    px, py = round(x - 2) + dx, round(y - 2) + dy
                    if 0 <= px < 16 and 0 <= py < 16:
                        hits[py, px] += 1
                    else:
                        outside += 1
        assert float(found["coverage"][b]) == pytest.approx((hits > 0).mean())
        assert float(found["depth"][b]) == pytest.approx(hits.sum() / (hits > 0).sum())
        assert float(found["outside"][b]) == pytest.approx(outside / 80, abs=1e-6)
        distances = torch.cdist(landmarks[b], landmarks[b]) + 1e9 * torch.eye(5)
        assert float(found["nearest"][b]) == pytest.approx(float(distances.amin(1).mean()), rel=1e-4)


def test_overlays_have_a_dot_where_the_landmark_is() -> None:
    images = torch.zeros(1, 10, 10, 3, dtype=torch.uint8)
    drawn = draw_landmarks(images, torch.tensor([[[2.0, 7.0], [-30.0, 5.0]]]), 4, enlarge=3, boxes=True)
    assert drawn.shape == (1, 30, 30, 3)
    lit = drawn[0].any(-1)
    assert lit[22, 7]
    assert lit[3 * 7 + 1 - 6, 3 * 2 + 1]  # the upper edge of its patch
    assert not lit[:, 16:].any()


def test_landmarks_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for person in ("a", "b"):
        (tmp_path / "faces" / person).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(tmp_path / "faces" / person / f"{i}.png"), rng.integers(0, 256, (60, 50, 3), np.uint8))
    torch.manual_seed(0)
    method = LAFS(backbone_options={"dim": 8, "depth": 1, "heads": 1, "mlp_dim": 8, "landmark_width": 0.25})
    torch.save(method.backbone.state_dict(), tmp_path / "stage1.pth")
    command = ["lafs-landmarks", "--checkpoint", str(tmp_path / "stage1.pth"), "--data", str(tmp_path / "faces")]
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--overlays", "2", "--device", "cpu"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["pictures"], summary["landmarks"]) == (4, 196)
    with np.load(tmp_path / "out" / "landmarks.npz") as found:
        assert found["landmarks"].shape == (4, 196, 2)
        assert found["landmarks"].min() == 0
        assert found["landmarks"].max() == pytest.approx(111)
        assert found["coverage"].shape == (4,)
    assert json.loads((tmp_path / "out" / "landmarks.json").read_text()) == summary
    drawn = cv2.imread(str(tmp_path / "out" / "overlay_0001.png"))
    assert drawn.shape == (336, 336, 3)
    assert not (tmp_path / "out" / "overlay_0002.png").exists()
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    command[2] = str(tmp_path / "other.pth")
    assert cli.main([*command, "--out", str(tmp_path / "no")]) == 2
    assert "matches nothing" in capsys.readouterr().err
