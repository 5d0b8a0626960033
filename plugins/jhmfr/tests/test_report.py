"""`facex jhmfr-report` and `jhmfr-pku` on untrained networks: conditions, flags of every source, pictures, rank rates."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from facex_jhmfr import JHMFRDetector, conditions_command, pku_command
from facex_jhmfr.conditions_report import evaluate
from facex_jhmfr.pku import identify_pku, read_pku
from facex_jhmfr.reconstructions import reconstruct

from facex.commands.convert import write_run
from facex.data.imageio import encode_png
from facex.data.verification import write_bin
from facex.errors import ConfigError, DataError
from facex.eval.run import evaluate_set
from facex.inference.embed import plain_nets
from facex.synth.dataset import STAMP
from facex.train.load_run import load_run
from plugins.jhmfr.tests.test_masks import face
from plugins.jhmfr.tests.tiny_jhmfr import DECODER, SHAPE, pretrained, tuned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a network, an autoencoder and a detector; 20 pairs, half of them a picture and itself, brightened."""
    root = tmp_path_factory.mktemp("report")
    common = {"embedding_size": 8, "input": {"height": 32, "width": 32}}
    shape = {**SHAPE, "prompt_layers": 2, "prompt_tokens": 3}
    write_run(root / "net", tuned(), "facex_jhmfr.JHMFR", {**common, "backbone_options": shape}, None, "t")
    arguments = {**common, "backbone_options": SHAPE, **DECODER}
    write_run(root / "mae", pretrained(), "facex_jhmfr.JHMFRPretrain", arguments, None, "t")
    write_run(root / "detector", JHMFRDetector(), "facex_jhmfr.JHMFRDetector", {}, None, "t")
    entries = []
    for i in range(10):
        entries += [encode_png(face(i)), encode_png(face(i) + 20), encode_png(face(i)), encode_png(face(i + 50))]
    write_bin(root / "val.bin", entries, [True, False] * 10)
    (root / STAMP).write_text("{}")  # as if facex synth had written the pictures
    return root


def run(folder: Path, *more: str) -> tuple[dict[str, float], str]:
    out = folder / "out"
    words = ["--checkpoint", str(folder / "net"), "--bin", str(folder / "val.bin"), "--report", str(out)]
    assert conditions_command.main([*words, "--device", "cpu", *more]) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    return {f"{r['network']} {r['set']}": r["auc"] for r in rows}, (out / "index.html").read_text()


def test_conditions_and_reconstructions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, page = run(folder, "--compare", f"other={folder / 'net'}", "--mae", str(folder / "mae"))
    names = [f"{network} val-{c}" for c in ("H-H", "H-M", "M-M") for network in ("trained", "other")]
    assert sorted(found) == sorted(names)
    assert found["trained val-H-H"] == found["other val-H-H"] == 1.0  # a picture and itself
    assert found["trained val-M-M"] < 1.0
    assert page.count("seen · reconstructed · original; error") == 2 * 8  # caption and alternative text
    assert "75% of the patches are hidden" in page
    assert "val-M-M" in capsys.readouterr().out


def test_flags_of_every_source(folder: Path) -> None:
    words = ["--checkpoint", str(folder / "net"), "--bin", str(folder / "val.bin"), "--report", str(folder / "out")]
    scores = {}
    for source in ("given", "masked", "both", str(folder / "detector")):
        options = conditions_command.build_parser().parse_args([*words, "--device", "cpu", "--flags", source])
        found = evaluate(options, {"net": options.checkpoint})
        scores[source] = found.results["net"]["val-M-M"].pairs.scores
        half = found.sets[1]
        method = load_run(folder / "net").method
        if source == "given":  # the same as embedding that set by itself
            alone = evaluate_set(method, plain_nets(method), half)
            np.testing.assert_allclose(alone.pairs.scores, found.results["net"][half.name].pairs.scores, atol=1e-9)
    assert (scores["given"] == scores["masked"]).all() and (scores["both"] != scores["given"]).any()  # all wear masks
    assert found.facts[1][1].endswith(" of 120 pictures")
    with pytest.raises(ConfigError, match="neither one of given, holistic, masked, both nor"):
        conditions_command.main([*words, "--flags", "guess"])


def test_a_reconstruction_keeps_what_was_seen() -> None:
    images = np.stack([face(i) for i in range(3)])
    made = reconstruct(pretrained(), images, seed=4)
    grey = (made.seen == 128).all(-1)
    assert grey.mean((1, 2)) == pytest.approx(0.75, abs=0.02) and made.hidden == 0.75
    assert (made.filled[~grey] == made.originals[~grey]).all()
    difference = (made.filled.astype(float) - made.originals)[grey] / 127.5
    assert np.square(difference).mean() == pytest.approx(made.error.mean(), rel=0.1)  # pixels end at 0 and 255
    assert (reconstruct(pretrained(), images, seed=5).seen != made.seen).any()
    with pytest.raises(ConfigError, match="JHMFR is no masked autoencoder"):
        reconstruct(tuned(), images)


@pytest.fixture
def pku(tmp_path: Path) -> Path:
    """Three people: bare and masked (a bright lower half) from the front, and a side view that does not count."""
    for person in range(3):
        for masked in (0, 1):
            where = tmp_path / f"{person}_{masked}"
            where.mkdir()
            picture = cv2.resize(face(person), (32, 32))
            picture[16 + 12 * (1 - masked) :] = 240
            cv2.imwrite(str(where / "0_0.png"), picture)
            cv2.imwrite(str(where / "1_2.png"), picture[::-1])
    return tmp_path


def test_rank_1_of_masked_faces(folder: Path, pku: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = read_pku(pku)
    assert faces.names[:2] == ["0_0/0_0.png", "0_1/0_0.png"] and len(faces.names) == 6
    vectors = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.8, 0.6, 0], [0, 0, 1], [0, 0.1, 0.9]])
    found = identify_pku(vectors, faces, ranks=(1, 2))
    assert found.rates == {1: pytest.approx(2 / 3), 2: 1.0} and (found.gallery, found.probes) == (3, 3)
    words = ["--checkpoint", str(folder / "net"), "--root", str(pku), "--device", "cpu", "--json", "-"]
    rates = {}
    for flags in ("by_folder", "both", str(folder / "detector")):
        pku_command.main([*words, "--flags", flags])
        rates[flags] = json.loads(capsys.readouterr().out)
        assert rates[flags]["probes"] == 3 and 0 <= rates[flags]["rank-1"] <= rates[flags]["rank-5"] == 1
    (pku / "2_0/0_0.png").unlink()
    assert identify_pku(np.eye(5), read_pku(pku)).skipped == 1


def test_a_folder_without_masked_or_bare_faces(tmp_path: Path) -> None:
    (tmp_path / "a_0").mkdir()
    (tmp_path / "a_0/0_0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no frontal masked faces"):
        read_pku(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_pku(tmp_path / "none")
