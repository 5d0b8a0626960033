"""`facex extract`: features and magnitudes as .npy, MagFace's text rows, from folders, lists and RecordIO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facex.commands import extract as command
from facex.data.decoding import decode_payload
from facex.errors import ConfigError, DataError
from facex.inference.embed import embed_images
from facex.inference.extract import embeddings, mask_flags, open_faces
from facex.methods import Embedding
from tests.eval.tiny import Tiny, encode, faces, make_run

NAMES = ["ann/0.jpg", "ann/1.jpg", "bob/0.jpg", "bob/1.jpg", "cy d/0.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = faces(5)[:, 0]
    for name, picture in zip(NAMES, pictures, strict=True):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture))
    return tmp_path / "faces"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", (1,))


def wanted(folder: Path) -> np.ndarray:
    method = Tiny()
    with torch.no_grad():
        method.net[2].bias.fill_(0.1)
    pictures = np.stack([decode_payload((folder / name).read_bytes()) for name in NAMES])
    return embed_images(method, None, pictures, "rgb").vector.numpy()


def test_npy_from_a_folder(tmp_path: Path, folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "features.npy"
    assert command.main(["--checkpoint", str(run), "--data", str(folder), "--out", str(out), "--batch-size", "2"]) == 0
    features, magnitude = np.load(out), np.load(tmp_path / "out" / "features.magnitude.npy")
    assert features.dtype == magnitude.dtype == np.float32
    np.testing.assert_allclose(features, wanted(folder), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(magnitude, np.linalg.norm(features, axis=1), rtol=1e-5)
    names = (tmp_path / "out" / "features.names.txt").read_text().splitlines()
    assert [str(Path(n).relative_to(folder)) for n in names] == NAMES
    assert "5 pictures" in capsys.readouterr().out
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("form", ["{}", "{} 0 1 0"])
def test_text_rows_as_magface_writes_them(
    tmp_path: Path, folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """gen_feat.py: the path as it stands in the list, a space after every value, raw values in full."""
    monkeypatch.chdir(folder)
    names = NAMES[:4] if form == "{}" else NAMES  # only the labelled form allows for a space in a path
    (tmp_path / "faces.list").write_text("".join(form.format(name) + "\n" for name in names))
    command.main(
        ["--checkpoint", str(run), "--data", str(tmp_path / "faces.list"), "--text", str(tmp_path / "rows.txt")]
    )
    lines = (tmp_path / "rows.txt").read_text().split("\n")
    assert lines[-1] == ""
    for name, line, want in zip(names, lines, wanted(folder), strict=False):
        assert line.startswith(name + " ")
        assert line.endswith(" ")
        values = line[len(name) + 1 : -1].split(" ")
        got = np.array([np.float32(v) for v in values])
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        assert [str(v) for v in got] == values  # nothing was rounded away
    assert len(lines) == len(names) + 1


def test_records_are_called_by_their_keys(tmp_path: Path, folder: Path, run: Path) -> None:
    from facex.data.writer import write_face_set

    samples = [((folder / name).read_bytes(), label) for label, name in ((0, NAMES[0]), (0, NAMES[1]), (1, NAMES[2]))]
    write_face_set(tmp_path / "rec", samples, 2, (112, 112))
    command.main(
        ["--checkpoint", str(run), "--data", str(tmp_path / "rec"), "--text", str(tmp_path / "rows.txt"), "--flip"]
    )
    assert [line.split(" ")[0] for line in (tmp_path / "rows.txt").read_text().splitlines()] == ["1", "2", "3"]


def test_wrong_input_is_named(tmp_path: Path, folder: Path, run: Path) -> None:
    common = ["--checkpoint", str(run), "--data", str(folder)]
    with pytest.raises(ConfigError, match="either --out"):
        command.main(common)
    with pytest.raises(ConfigError, match="either --out"):
        command.main([*common, "--out", "a.npy", "--text", "a.txt"])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt: the list is empty"):
        open_faces(tmp_path / "empty.txt", "rgb")
    (folder / NAMES[2]).write_bytes(encode(faces(1)[0, 0])[:900])
    with pytest.raises(DataError, match=r"bob/0\.jpg"):
        command.main([*common, "--out", str(tmp_path / "f.npy")])
    assert not (tmp_path / "f.npy").exists()
    command.main([*common, "--out", str(tmp_path / "f.npy"), "--on-error", "grey"])
    assert np.load(tmp_path / "f.npy").shape == (5, 16)


def test_flags_come_to_the_method_batch_by_batch(folder: Path, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Masked(Tiny):
        def embed(self, images: Any, nets: Any, side: Any = None, flip: bool = False) -> Embedding:
            seen.extend(side["flag"].tolist())
            return super().embed(images, nets, None, flip)

    method, opened = Masked(), open_faces(folder, "rgb")
    (tmp_path / "flags.txt").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(NAMES)))
    flags = mask_flags(tmp_path / "flags.txt", opened, folder)
    list(embeddings(method, method.networks(), opened, "cpu", 2, flags=flags))
    assert seen == [False, True, False, True, False]
