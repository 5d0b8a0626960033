"""Pair lists: both forms against what they say, missing pictures, the generator, evaluation on a folder."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from facex.errors import DataError, VerificationSetError
from facex.eval import run
from facex.eval.pair_lists import read_pairs
from facex.eval.pair_lists_pku import pku_lines, write_pku_list
from tests.eval.tiny import Tiny, encode, faces


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people with two pictures each, `personK/{a,b}.jpg`, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for person, two in enumerate(faces(6)):
        (folder / f"person{person}").mkdir()
        for name, image in zip("ab", two, strict=True):
            (folder / f"person{person}" / f"{name}.jpg").write_bytes(encode(image))
        (folder / f"person{person}" / "Thumbs.db").write_bytes(b"")
    return folder


def written(folder: Path, text: str) -> Path:
    (folder / "list.txt").write_text(text)
    return folder / "list.txt"


def names(root: Path, files: object) -> list[str]:
    return [str(file.relative_to(root)) for file in files]  # type: ignore[attr-defined]


def test_two_lines_a_pair(root: Path, tmp_path: Path) -> None:
    lines = ["person0/a.jpg", "person0/b.jpg", "person1/a.jpg", "person1/b.jpg"]
    lines += ["person0/a.jpg", "person1/a.jpg", "person2/a.jpg", "person3/b.jpg"]
    found = read_pairs(written(tmp_path, "\n".join(lines) + "\n\n"), root)
    assert names(root, found.files) == lines
    assert found.issame.tolist() == [True, True, False, False]
    assert found.name == "list"
    assert found.entries[2] == (root / lines[2]).read_bytes()
    assert found.entries[1:3] == [(root / line).read_bytes() for line in lines[1:3]]


def test_indexed(root: Path, tmp_path: Path) -> None:
    """Words or tabs; LFW's first line is passed over; pictures count from 1 in the order of the names."""
    for gap in (" ", "\t"):
        text = f"1{gap}1\nperson4{gap}2{gap}1\nperson1{gap}2{gap}person3{gap}1\n"
        found = read_pairs(written(tmp_path, text), root)
        wanted = ["person4/b.jpg", "person4/a.jpg", "person1/b.jpg", "person3/a.jpg"]
        assert names(root, found.files) == wanted
        assert found.issame.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("person0/a.jpg\nperson0/b.jpg\n", "2 lines; two lines a pair"),
        ("person0/a.jpg\nperson0/b.jpg\nperson0/a.jpg\nperson9/a.jpg\n", r"line 4: no picture .*person9/a\.jpg"),
        ("person0 1 2\nperson0 1 3\n", "line 2: there is no picture 3 in .*person0, which has 2"),
        ("person0 1 2\nnobody 1 person0 1\n", "line 2: there is no picture 1 in .*nobody, where no pictures are"),
        ("person0 1 2\nperson0 0 1\n", "line 2: '0' is no number of a picture"),
        ("person0 1 2\nperson0 x 1\n", "line 2: 'x' is no number of a picture"),
        ("person0 1 2\nperson0 1\n", "line 2: 'person0 1'; 'person i j'"),
    ],
)
def test_bad_lists_are_named(root: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VerificationSetError, match=r"list\.txt.*" + message):
        read_pairs(written(tmp_path, text), root)


def test_missing_pictures_are_counted_where_asked(root: Path, tmp_path: Path) -> None:
    path = written(tmp_path, "person0 1 2\nperson0 1 3\nperson1 1 person7 1\nperson1 1 person2 2\n")
    found = read_pairs(path, root, missing="skip")
    assert found.skipped == 2
    assert found.issame.tolist() == [True, False]
    with pytest.raises(VerificationSetError, match="none of the 1 pairs"):
        read_pairs(written(tmp_path, "person0 1 3\n"), root, missing="skip")
    with pytest.raises(VerificationSetError, match="no such folder"):
        read_pairs(path, root / "elsewhere")
    with pytest.raises(VerificationSetError, match="cannot be read"):
        read_pairs(tmp_path / "no.txt", root)
    with pytest.raises(VerificationSetError, match="unknown form 'csv'"):
        read_pairs(path, root, "csv")  # type: ignore[arg-type]


def test_evaluation_embeds_a_picture_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are in the order of the list, and equal those of a set in memory."""
    lines = [f"person{i}/{k}.jpg" for i in range(5) for k in "ab"]
    lines += [f"person{(i + k) % 6}/a.jpg" for i in range(5) for k in (0, 1)]
    pairs = read_pairs(written(tmp_path, "\n".join(lines)), root)
    seen: list[int] = []
    plain = run.embed_batch

    def counting(method: object, nets: object, images: np.ndarray, *rest: object) -> object:
        seen.append(len(images))
        return plain(method, nets, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "embed_batch", counting)
    method = Tiny()
    found = run.embed_set(method, method.networks(), pairs, batch_size=4)
    assert sum(seen) == len(set(lines)) == 11
    whole = run.VerificationSet(list(pairs.entries), pairs.issame, "memory")
    expected = run.embed_set(method, method.networks(), whole, batch_size=4)
    np.testing.assert_allclose(found.vector.numpy(), expected.vector.numpy(), rtol=1e-5, atol=1e-4)
    assert found.quality is not None
    assert len(found.quality) == 20
    result = run.evaluate_set(method, method.networks(), run.load_bins([pairs], folds=5)[0], folds=5)
    assert 0 <= result.pairs.accuracy <= 1


def test_a_picture_that_does_not_decode_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes((root / "person0/a.jpg").read_bytes()[:500])
    for name in ("person0", "person1"):
        (tmp_path / name).symlink_to(root / name)
    pairs = read_pairs(written(tmp_path, "person0/a.jpg\nperson0/b.jpg\nperson1/a.jpg\nbroken.jpg\n"), tmp_path)
    method = Tiny()
    with pytest.raises(VerificationSetError, match=r"broken\.jpg: .*cannot decode entry"):
        run.embed_set(method, method.networks(), pairs)


def test_pku_generator(tmp_path: Path) -> None:
    """The first half shows one person, the second two neighbours; pictures exist, and a genuine pair has two."""

    def exists(path: str) -> bool:
        return "/9_" not in path and "3_1/" not in path  # person 3 has no masked pictures

    lines = pku_lines(40, random.Random(1), exists, identities=12, folder="f")
    people = [int(line.split("/")[1].split("_")[0]) for line in lines]
    pairs = list(zip(lines[0::2], lines[1::2], people[0::2], people[1::2], strict=True))
    assert len(pairs) == 40
    assert all(exists(line) for line in lines)
    assert all(a == b and left != right for left, right, a, b in pairs[:20])
    assert all(b - a == 1 for _, _, a, b in pairs[20:])
    assert lines != pku_lines(40, random.Random(2), exists, identities=12, folder="f")

    for k in (0, 1):
        for person in range(3):
            (tmp_path / "f" / f"{person}_{k}").mkdir(parents=True)
            for number in range(3):
                (tmp_path / "f" / f"{person}_{k}" / f"{number}_0.png").write_bytes(b"x")
    path = write_pku_list(tmp_path / "list.txt", tmp_path, 4, folder="f")
    assert read_pairs(path, tmp_path).issame.tolist() == [True, True, False, False]


def test_pku_generator_refuses_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an even number"):
        pku_lines(3, random.Random(0), lambda path: True)
    with pytest.raises(DataError, match="no genuine pair"):
        pku_lines(4, random.Random(0), lambda path: False, identities=5)
    with pytest.raises(DataError, match="no impostor pair"):
        pku_lines(4, random.Random(0), lambda path: "/0_" in path.rpartition("/")[0], identities=5)
    with pytest.raises(DataError, match="no such folder"):
        write_pku_list(tmp_path / "list.txt", tmp_path, 4)
