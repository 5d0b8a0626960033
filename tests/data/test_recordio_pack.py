"""List files of every form, and `facex pack`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facex.commands.pack import main
from facex.data import RecordFile, open_dataset
from facex.data.pack import PackOptions, pack
from facex.errors import ConfigError, DataError
from tests.data.face_files import decoded, jpeg, write_image_folder

LISTS = {
    "magface.list": ("{path} 0 {label} 0", [0, 2, 1, 0]),
    "insightface.lst": ("1\t{path}\t{label}", [0, 2, 1, 0]),
    "landmarks.lst": ("1\t{path}\t{label}\t0\t0\t16\t16\t" + "\t".join("5" * 10), [0, 2, 1, 0]),
    "im2rec.lst": ("7\t{label}.000000\t{path}", [0, 2, 1, 0]),
    "im2rec_labels.lst": ("7\t{label}.000000\t1.000000\t{path}", [0, 2, 1, 0]),
    "train.tsv": ("0\t{path}\t{label}", [0, 2, 1, 0]),
}


def write_list(folder: Path, name: str, prefix: str = "") -> Path:
    """Four pictures, one of them in a folder with a blank in its name; labels 0, 2, 1, 0."""
    form, labels = LISTS[name]
    lines = []
    for i, label in enumerate(labels):
        path = folder / ("a b" if i == 1 else "c") / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(i))
        lines.append(form.format(path=prefix + str(path.relative_to(folder)), label=label))
    (folder / name).write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", LISTS)
def test_lists(tmp_path: Path, name: str) -> None:
    data = open_dataset(write_list(tmp_path, name))
    assert data.labels().tolist() == [0, 2, 1, 0]
    assert data.num_classes == 3
    out = data.allocate(4)
    data.read(np.arange(4), out)
    for i in range(4):
        np.testing.assert_array_equal(out["image"][i].numpy(), decoded(i))


@pytest.mark.parametrize("name", ["magface.list", "insightface.lst"])
def test_where_relative_paths_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    absolute = open_dataset(write_list(tmp_path, name, prefix=f"{tmp_path}/"))
    assert len(absolute) == 4
    lists = tmp_path / "lists"
    lists.mkdir()
    moved = write_list(tmp_path, name).rename(lists / name)
    assert open_dataset(moved, root=tmp_path).labels().tolist() == [0, 2, 1, 0]
    monkeypatch.chdir(tmp_path)  # as MagFace: below the current folder
    assert open_dataset(moved).labels().tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x.jpg 0 1 0\nx.jpg 0\n", "line 2: expected 'path 0 label 0'"),
        ("x.jpg 0 one 0\n", "line 1: 'one' is not a number"),
        ("1\tx.jpg\t0\n0\ty.jpg\t1\n", "line 2: the image is not aligned"),
        ("1\tx.jpg\t0.5\n", "label 0.5 is not an integer"),
        ("1\tx.jpg\t-1\n", "label -1 out of range"),
        ("\n \n", "the list is empty"),
    ],
)
def test_bad_lists_name_file_and_line(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "bad.lst").write_text(text)
    with pytest.raises(DataError, match=rf"bad\.lst: .*{what}"):
        open_dataset(tmp_path / "bad.lst")


def test_packing_a_folder_copies_the_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image_folder(tmp_path / "in")
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert "6 images of 3 classes, 16x16 (6 copied, 0 encoded)" in capsys.readouterr().out
    file = RecordFile(tmp_path / "out" / "train.rec")
    assert [file.unpack(key)[1] for key in range(1, 7)] == [jpeg(i) for i in range(6)]
    assert open_dataset(tmp_path / "out").labels().tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", LISTS)
def test_packing_a_list_sorts_by_class(tmp_path: Path, name: str) -> None:
    report = pack(write_list(tmp_path, name), tmp_path / "out")
    assert (report.images, report.classes, report.size) == (4, 3, (16, 16))
    file = RecordFile(tmp_path / "out" / "train.rec")
    assert [file.unpack(key)[1] for key in range(1, 5)] == [jpeg(i) for i in (0, 3, 2, 1)]
    plain = tmp_path / "plain"
    pack(tmp_path / name, plain, PackOptions(layout="plain"))
    assert open_dataset(plain).labels().tolist() == [0, 2, 1, 0]


def test_packing_again_gives_insightface_s_file(facex_data: Path, tmp_path: Path) -> None:
    """`small` was made by MXNet in RecBuilder's layout from these pictures: the same bytes come out."""
    golden = facex_data / "goldens" / "recordio" / "small"
    pack(golden / "train.lst", tmp_path, root=facex_data / "data" / "lfw_train")
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / name).read_bytes() == (golden / name).read_bytes(), name


def test_sizes_and_encodings(tmp_path: Path) -> None:
    source = write_image_folder(tmp_path / "in")
    (source / "c0" / "000.jpg").write_bytes(jpeg(0, 20, 20))
    with pytest.raises(DataError, match=r"001\.jpg: cannot pack: the image is 16x16, expected 20x20"):
        pack(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert main([str(source), str(tmp_path / "out"), "--size", "16", "--encoding", "png"]) == 0
    data = open_dataset(tmp_path / "out")
    out = data.allocate(6)
    data.read(np.arange(6), out)
    for i in range(1, 6):  # lossless
        np.testing.assert_array_equal(out["image"][i].numpy(), decoded(i))
    report = pack(source, tmp_path / "out", PackOptions(size=(16, 16)))
    assert report.encoded == 1
    with pytest.raises(ConfigError, match="HEIGHT,WIDTH"):
        main([str(source), str(tmp_path / "out"), "--size", "[1,2,3]"])


def test_a_bad_picture_stops_the_packing(tmp_path: Path) -> None:
    source = write_image_folder(tmp_path / "in")
    (source / "c2" / "005.jpg").write_bytes(jpeg(5)[:200])
    with pytest.raises(DataError, match=r"c2/005\.jpg: cannot pack"):
        pack(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(DataError, match="no such folder or list"):
        pack(tmp_path / "nowhere", tmp_path / "out")
