"""Verification of a method on sets: the same on one rank and on two, and nothing is left changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize

from facex.data.verification import load_bin, write_bin
from facex.errors import ConfigError, DataError, VerificationSetError
from facex.eval.baselines import raw_pixels
from facex.eval.run import evaluate_bins, evaluate_set
from facex.inference.embed import embed_images, plain_nets
from tests.eval.tiny import Tiny, encode, faces, make_bin


def test_numbers_are_those_of_the_embeddings(tmp_path: Path) -> None:
    path, method = make_bin(tmp_path / "small.bin"), Tiny()
    loaded = load_bin(path)
    result = evaluate_bins(method, method.networks(), [path], batch_size=7)["small"]
    pictures = torch.from_numpy(loaded.decode("bgr"))
    method.eval()
    with torch.no_grad():
        x = method.input.to_tensor(pictures, "bgr")
        rows = normalize((method.net(x) + method.net(x.flip(3))).numpy().astype(np.float64))
    cosine = np.sum(rows[0::2] * rows[1::2], 1)
    genuine, impostor = cosine[loaded.issame], cosine[~loaded.issame]
    auc = np.mean((genuine[:, None] > impostor) + 0.5 * (genuine[:, None] == impostor))
    assert result["auc"] == pytest.approx(auc)
    assert result["accuracy"] > 0.8
    assert next(iter(result)) == "accuracy"
    assert result["pairs"] == 20
    assert result["images/s"] > 0
    without = evaluate_bins(method, method.networks(), [loaded], flip=False)["small"]
    assert without["quality_mean"] != result["quality_mean"]


def test_modes_and_random_state_are_left_as_they_were(tmp_path: Path) -> None:
    method = Tiny()
    method.train()
    method.net[2].eval()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    nets = method.networks()
    first = evaluate_bins(method, nets, [make_bin(tmp_path / "small.bin")])
    assert torch.equal(torch.get_rng_state(), before)
    assert method.training
    assert method.net[1].training
    assert not method.net[2].training
    again = evaluate_bins(method, nets, [tmp_path / "small.bin"])
    assert first["small"]["folds"] == again["small"]["folds"]  # dropout was off
    assert all(p.requires_grad for p in method.parameters())


def test_mistakes_show_before_anything_is_computed(tmp_path: Path) -> None:
    method = Tiny()
    method.embed = None  # type: ignore[assignment, method-assign]
    first, short = make_bin(tmp_path / "a.bin"), make_bin(tmp_path / "b.bin", pairs=12)
    with pytest.raises(VerificationSetError, match=r"b\.bin: 12 pairs do not divide"):
        evaluate_bins(method, {}, [first, short])
    with pytest.raises(ConfigError, match="two verification sets are called 'a'"):
        evaluate_bins(method, {}, [first, first])


def test_a_broken_picture_is_named_or_grey(tmp_path: Path) -> None:
    method, entries = Tiny(), [encode(f) for f in faces(20)[:, 0]]
    write_bin(tmp_path / "bad.bin", [*entries[:13], b"", *entries[14:]], [True, False] * 5)
    with pytest.raises(VerificationSetError, match=r"bad\.bin: cannot decode entry 13"):
        evaluate_bins(method, method.networks(), [tmp_path / "bad.bin"], batch_size=4)
    assert evaluate_bins(method, method.networks(), [tmp_path / "bad.bin"], on_error="grey")["bad"]["pairs"] == 10


def test_a_network_of_nan_is_named(tmp_path: Path) -> None:
    method = Tiny()
    with torch.no_grad():
        method.net[2].bias[0] = torch.nan
    with pytest.raises(DataError, match="40 of 40 embeddings hold NaN"):
        evaluate_bins(method, method.networks(), [make_bin(tmp_path / "small.bin")])


def test_embed_images_batches_and_colours() -> None:
    method = Tiny()
    pictures = faces(5)[:, 0]
    whole = embed_images(method, plain_nets(method), pictures, "rgb", batch_size=64)
    parts = embed_images(method, None, torch.from_numpy(pictures[..., ::-1].copy()), "bgr", batch_size=2)
    assert whole.vector.shape == (5, 16)
    assert torch.allclose(whole.vector, parts.vector, atol=1e-5)
    assert whole.quality is not None
    assert torch.allclose(whole.quality, whole.vector.norm(dim=1))
    with pytest.raises(DataError, match="no pictures"):
        embed_images(method, None, pictures[:0], "rgb")
    with pytest.raises(DataError, match="uint8"):
        embed_images(method, None, pictures.astype(np.float32), "rgb")
    with pytest.raises(DataError, match="rgb or bgr"):
        embed_images(method, None, pictures, "grey")


def test_raw_pixels_are_the_cosine_of_centred_pixels(tmp_path: Path) -> None:
    loaded = load_bin(make_bin(tmp_path / "small.bin"))
    rows = loaded.decode().reshape(40, -1).astype(np.float64)
    want = [np.corrcoef(rows[2 * i], rows[2 * i + 1])[0, 1] for i in range(20)]
    got = raw_pixels(loaded)
    np.testing.assert_allclose(1 + got.pairs.scores / 2, want, atol=1e-9)


def test_raw_pixels_on_real_faces(facex_data: Path) -> None:
    """About the 0.583 that data/README.md gives for this set."""
    result = raw_pixels(load_bin(facex_data / "goldens" / "verification" / "lfw_val.bin"))
    assert result.pairs.accuracy == pytest.approx(0.583, abs=0.01)
    assert result.pairs.auc == pytest.approx(0.636, abs=0.01)


WORKER = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from facex.errors import FacexError
from facex.eval.run import evaluate_bins, evaluate_set
from facex.data.verification import load_bin
from tests.eval.tiny import Tiny

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
method = Tiny()
found = evaluate_set(method, method.networks(), load_bin(folder / "good.bin"), batch_size=3, uneven_folds=True)
try:
    evaluate_bins(method, method.networks(), [folder / "bad.bin"], batch_size=3)
    error = ""
except FacexError as caught:
    error = str(caught)
(folder / f"{rank}.json").write_text(json.dumps([found.pairs.scores.tolist(), found.quality.tolist(), error]))
dist.destroy_process_group()
"""


def test_two_ranks_give_the_numbers_of_one(tmp_path: Path) -> None:
    """An odd share (22 pictures on 2 ranks, batches of 3), and an error on one rank that both must raise."""
    import json

    good = make_bin(tmp_path / "good.bin", pairs=11)
    entries = load_bin(good).entries
    write_bin(tmp_path / "bad.bin", [*entries[:19], b"no image"], [True, False] * 5)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(rank)], env=environment, cwd=root)
        for rank in range(2)
    ]
    assert [process.wait(180) for process in ranks] == [0, 0]
    method = Tiny()
    one = evaluate_set(method, method.networks(), load_bin(good), batch_size=64, uneven_folds=True)
    for rank in range(2):
        scores, quality, error = json.loads((tmp_path / f"{rank}.json").read_text())
        np.testing.assert_allclose(scores, one.pairs.scores, atol=1e-6)
        np.testing.assert_allclose(quality, one.quality, rtol=1e-6)
        assert "cannot decode entry 19" in error
