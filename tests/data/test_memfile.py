"""AdaFace's memory-mapped folders: there and back to the bit, evaluation through them, damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facex.data.memfile import MemfileSet, is_memfile, open_memfile, write_memfile
from facex.data.verification import load_bin
from facex.errors import VerificationSetError
from facex.eval.run import evaluate_bins
from facex.inference.embed import plain_nets
from tests.eval.tiny import Tiny, make_bin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_memfile(tmp_path / "val", load_bin(make_bin(tmp_path / "lfw.bin", 10)))


def test_pictures_come_back_exactly(tmp_path: Path, folder: Path) -> None:
    plain, mapped = load_bin(tmp_path / "lfw.bin"), open_memfile(folder)
    assert is_memfile(folder)
    assert (mapped.name, len(mapped), len(mapped.entries)) == ("lfw", 10, 20)
    assert np.array_equal(mapped.issame, plain.issame)
    for color in ("rgb", "bgr"):
        assert np.array_equal(mapped.decode(color), plain.decode(color))
    assert np.array_equal(mapped.decode("rgb", start=3, stop=7), plain.decode("rgb", start=3, stop=7))
    assert mapped.decode("rgb", size=56).shape == (20, 56, 56, 3)
    assert mapped.entries[2] == mapped.pixels[2].tobytes()
    assert len(mapped.entries[:3]) == 3


def test_the_layout_is_adafaces(folder: Path) -> None:
    """As evaluate_utils.read_memmap and convert.load_bin have it: BGR planes, (x/255 - 0.5) / 0.5."""
    conf = json.loads((folder / "memfile" / "mem_file.dat.conf").read_text())
    assert conf == {"shape": [20, 3, 112, 112], "dtype": "float32"}
    pixels = np.memmap(folder / "memfile" / "mem_file.dat", conf["dtype"], "r", shape=tuple(conf["shape"]))
    image = open_memfile(folder).decode("bgr", start=4, stop=5)[0]
    want = (image.transpose(2, 0, 1).astype(np.float32) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(pixels[4], want, atol=1e-6)
    assert np.load(folder.parent / "lfw_list.npy").dtype == bool


def test_evaluation_is_that_of_the_bin(tmp_path: Path, folder: Path) -> None:
    method = Tiny()
    numbers = [evaluate_bins(method, plain_nets(method), [source])["lfw"] for source in (tmp_path / "lfw.bin", folder)]
    assert numbers[0]["accuracy"] == numbers[1]["accuracy"]
    assert numbers[0]["auc"] == numbers[1]["auc"]


def test_values_that_are_no_pictures(folder: Path) -> None:
    found = open_memfile(folder)
    pixels = np.array(found.pixels)
    pixels[5, 0, 3, 3], pixels[7] = np.nan, 200
    broken = MemfileSet(pixels, found.issame, "lfw", folder)
    with pytest.raises(VerificationSetError, match="picture 5 has values outside"):
        broken.decode()
    grey = broken.decode(on_error="grey")
    assert (grey[[5, 7]] == 128).all()
    assert np.array_equal(grey[4], found.decode(start=4, stop=5)[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("memfile/mem_file.dat.conf", b"{", "cannot be read"),
        ("memfile/mem_file.dat.conf", b"[]", "is wanted"),
        ("memfile/mem_file.dat.conf", b'{"shape": [20, 3, 112, true], "dtype": "float32"}', "is wanted"),
        ("memfile/mem_file.dat.conf", b'{"shape": [20, 3, 112, 112], "dtype": "object"}', "of object"),
        ("memfile/mem_file.dat.conf", b'{"shape": [99999999999, 3, 112, 112], "dtype": "float32"}', "write it again"),
        ("memfile/mem_file.dat", b"short", "5 bytes, but"),
        ("../lfw_list.npy", b"junk", "cannot be read as labels"),
    ],
)
def test_damaged_folders(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(VerificationSetError, match=message):
        open_memfile(folder)


def test_labels_that_do_not_fit(folder: Path) -> None:
    path = folder.parent / "lfw_list.npy"
    np.save(path, np.ones(9, bool))
    with pytest.raises(VerificationSetError, match="9 pairs for 20 pictures"):
        open_memfile(folder)
    np.save(path, np.array([0.5] * 10))
    with pytest.raises(VerificationSetError, match="one boolean a pair"):
        open_memfile(folder)
    np.save(path, np.array([{"x": 1}] * 10, object), allow_pickle=True)
    with pytest.raises(VerificationSetError, match="cannot be read as labels"):
        open_memfile(folder)
    path.unlink()
    with pytest.raises(VerificationSetError, match="cannot be read"):
        open_memfile(folder)


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(VerificationSetError, match="not an AdaFace validation folder"):
        open_memfile(tmp_path)
    for name in ("meta", "data"):
        (tmp_path / "old" / name).mkdir(parents=True)
    with pytest.raises(VerificationSetError, match="bcolz"):
        open_memfile(tmp_path / "old")
