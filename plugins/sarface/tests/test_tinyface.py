"""`facex sarface-tinyface`: lists, distractors, rates against a loop, both inputs, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from facex_sarface import tinyface_command
from facex_sarface.tinyface import read_list, read_tinyface

from facex.commands.convert import write_run
from facex.data.imageio import encode_png
from facex.errors import ConfigError, DataError
from facex.inference.embed import embed_images
from facex.methods.loading import build_method
from facex.train.load_run import load_run
from plugins.sarface.tests.tiny_sarface import NETWORK

ARGUMENTS = {
    **NETWORK,
    "margin": {"class_path": "CosFace"},
    "parsing": "parser",
    "parser": {"size": 64, "options": {"widths": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}},
}
TINY = "plugins.sarface.tests.tiny_sarface.TinySARFace"
PEOPLE = {"Probe": [4, 4, 9, 7, 30], "Gallery_Match": [9, 4, 7, 4]}  # nobody of the gallery is 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise, lists of both kinds, an untrained run."""
    folder, rng = tmp_path_factory.mktemp("tinyface"), np.random.default_rng(0)
    for part, people in PEOPLE.items():
        (folder / part).mkdir()
        names = [f"{person}_{i}.png" for i, person in enumerate(people)]
        for name in names:
            (folder / part / name).write_bytes(encode_png(rng.integers(0, 256, (112, 112, 3), np.uint8)))
        rows = [f"{name} {person}" for name, person in zip(names, people, strict=True)]
        (folder / f"{part}.txt").write_text("\n".join(rows) + "\n")
    (folder / "far").mkdir()
    for i in range(6):
        (folder / "far" / f"{i}.png").write_bytes(encode_png(rng.integers(0, 256, (112, 112, 3), np.uint8)))
    torch.manual_seed(0)
    write_run(folder / "net", build_method(TINY, ARGUMENTS), TINY, ARGUMENTS, None, "t")
    return folder


def words(root: Path, *more: str) -> list[str]:
    argv = ["--checkpoint", str(root / "net"), "--images", str(root), "--probes", str(root / "Probe.txt")]
    argv += ["--gallery", str(root / "Gallery_Match.txt"), "--distractors", str(root / "far"), "--device", "cpu"]
    return [*argv, *more]


def test_rates_against_a_loop(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinyface_command.main(words(root, "--json", "-", "--options", '{"eval_input": "both"}')) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["probes"], found["gallery"], found["distractors"]) == (5, 10, 6)
    faces = read_tinyface(root / "Probe.txt", root / "Gallery_Match.txt", root / "far", root)
    method = load_run(root / "net", options={"eval_input": "both"}).method
    for name, view in (("trained", method), ("trained masked", method.views()["masked"])):
        vectors = {}
        for part, files in (("probes", faces.probes), ("gallery", faces.gallery)):
            pictures = np.stack([_picture(file) for file in files])
            nets = {**method.networks(), "parser": method.parser}
            raw = embed_images(view, nets, pictures, "rgb", flip=True).vector.double()
            vectors[part] = torch.nn.functional.normalize(raw).numpy()
        ranks = []
        for vector, person in zip(vectors["probes"][:4], PEOPLE["Probe"][:4], strict=True):
            scores = vectors["gallery"] @ vector
            own = faces.gallery_people == person
            ranks.append(int((scores[~own] >= scores[own].max()).sum()))
        expected = {f"rank-{k}": float(np.mean([rank < k for rank in ranks])) for k in (1, 5, 20)}
        assert found[name] == pytest.approx(expected)
    assert found["trained"]["rank-20"] == 1


def _picture(path: Path) -> np.ndarray:
    from facex.data.imageio import decode_image

    return decode_image(path.read_bytes())


def test_lists_of_matlab(root: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    names, people = read_list(root / "Probe.txt")
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    scipy_io.savemat(root / "probes.mat", {"any_set": cells, "any_ids": people[:, None]})
    again, same = read_list(root / "probes.mat")
    assert again == names and same.tolist() == people.tolist() == PEOPLE["Probe"]
    scipy_io.savemat(root / "one.mat", {"ids": people})
    with pytest.raises(DataError, match="one list of names and one of numbers"):
        read_list(root / "one.mat")
    (root / "bad.mat").write_bytes(b"no matlab file at all" * 20)
    with pytest.raises(DataError, match="not a MATLAB list"):
        read_list(root / "bad.mat")


def test_what_is_refused(root: Path) -> None:
    (root / "bad.txt").write_text("a.png one\n")
    with pytest.raises(DataError, match="lines `name person`"):
        read_list(root / "bad.txt")
    (root / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="0 names"):
        read_list(root / "empty.txt")
    (root / "gone.txt").write_text("gone.png 3\n")
    with pytest.raises(DataError, match=r"gone\.png is missing"):
        read_tinyface(root / "gone.txt", root / "Gallery_Match.txt", None, root)
    with pytest.raises(DataError, match="no pictures"):
        read_tinyface(root / "Probe.txt", root / "Gallery_Match.txt", root / "nowhere", root)
    with pytest.raises(ConfigError, match="at least one picture"):
        tinyface_command.main(words(root, "--batch-size", "0"))
