"""Flags by rule, name and file; the mirrored view; conditions; pair lists; the N-pair loss."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from facex_jhmfr.npair import NPairLoss
from facex_jhmfr.pairs import Pair, parse_pairs
from facex_jhmfr.protocol import Protocol, flip_8bit, load_input, mask_flags, verify_files

from facex.errors import ConfigError, VerificationSetError
from facex.methods import InputSpec
from plugins.jhmfr.tests.tiny_jhmfr import tuned

NAMES = ["1.jpg", "2.jpg", "13.jpg", "p/4.jpg"]


def test_flags_by_rule() -> None:
    assert mask_flags(NAMES, "smfrd", "all_masked").all()
    assert mask_flags(NAMES, "smfrd", "by_name").tolist() == [False, True, False, True]
    assert not mask_flags(NAMES, "smfrd", "holistic").any()
    assert not mask_flags(NAMES, "holistic", "all_masked").any()
    assert mask_flags(["a/unmasked.jpg", "a/3.jpg"], "rmfvd", "by_name").tolist() == [False, True]
    with pytest.raises(ConfigError, match="the rule of flags"):
        mask_flags(NAMES, "smfrd", "guess")  # type: ignore[arg-type]
    with pytest.raises(VerificationSetError, match="called by a number"):
        mask_flags(["a.jpg"], "smfrd", "by_name")


def test_the_8_bit_mirror_cuts_off() -> None:
    levels = torch.arange(256).float()
    x = ((levels / 255 - 0.5) / 0.5).view(1, 1, 1, 256)
    back = (flip_8bit(x).flip(3) * 127.5 + 127.5).round().flatten()
    assert set((levels - back).tolist()) == {0.0, 1.0}
    assert int((levels != back).sum()) == 63


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """40 pictures of noise called by their number."""
    rng = np.random.default_rng(0)
    for i in range(40):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (32, 32, 3), np.uint8))
    return tmp_path


def test_conditions_go_by_what_the_pictures_show(pictures: Path) -> None:
    method = tuned().eval()
    sides = [(1, 3), (1, 2), (2, 4), (5, 9), (7, 6), (8, 10)]
    pairs = [Pair(f"{a}.png", f"{b}.png", i % 4 < 2) for i in range(4) for a, b in sides for _ in range(2)]
    found = verify_files(method, method.networks(), pictures, pairs, "smfrd", Protocol(folds=2))
    assert set(found.conditions) == {"H-H", "H-M", "M-M"}
    assert sum(len(r.scores) for r in found.conditions.values()) == len(pairs) == len(found.pairs.scores)
    assert found.flags.all() and len(found.vectors) == 10
    by_name = verify_files(method, method.networks(), pictures, pairs, "smfrd", Protocol(folds=2, flags="by_name"))
    assert not by_name.flags.all() and not np.allclose(by_name.vectors, found.vectors)
    given = verify_files(method, method.networks(), pictures, pairs, "smfrd", Protocol(folds=2), flags=by_name.flags)
    np.testing.assert_array_equal(given.vectors, by_name.vectors)


def test_input_norms_and_broken_pictures(pictures: Path) -> None:
    spec = InputSpec(32, 32)
    x = load_input([pictures / "0.png"], "eval", spec)
    raw = torch.from_numpy(cv2.imread(str(pictures / "0.png"))[..., ::-1].copy()).permute(2, 0, 1).float()
    torch.testing.assert_close(x[0], (raw - 127.5) / 128)
    torch.testing.assert_close(load_input([pictures / "0.png"], "train", spec)[0], (raw - 127.5) / 127.5)
    other = InputSpec(32, 32, "bgr", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    shift, scale = (torch.tensor(v).view(3, 1, 1) for v in (other.mean, other.std))
    torch.testing.assert_close(load_input([pictures / "0.png"], "train", other)[0], (raw.flip(0) - shift) / scale)
    assert load_input([pictures / "0.png"], "eval", InputSpec(48, 40)).shape == (1, 3, 48, 40)
    (pictures / "1.png").write_bytes(b"no picture")
    with pytest.raises(VerificationSetError, match=r"1\.png: cannot be read as a picture"):
        load_input([pictures / "0.png", pictures / "1.png"], "eval", spec)
    cv2.imwrite(str(pictures / "2.png"), np.zeros((16, 32, 3), np.uint8))
    with pytest.raises(VerificationSetError, match="a picture of"):
        load_input([pictures / "0.png", pictures / "2.png"], "eval", spec)


def test_pair_lists() -> None:
    assert parse_pairs("LFW", "a b.jpg 1\n\nc d 0\n") == [Pair("a.jpg", "b.jpg", True), Pair("c.jpg", "d.jpg", False)]
    assert parse_pairs("RFW_Asian", "m\t1\tn\t22\n") == [Pair("m/m_0001.jpg", "n/n_0022.jpg", False)]
    for name, text, message in (
        ("LFW", "a b 2\n", "line 1: 'file file 0 or 1'"),
        ("RMFVD", "a b 1\na b\n", "line 2"),
        ("lfw_official", "10\t300\nx\t1\ty\n", "line 2: 'name i j'"),
        ("CALFW", "a 1\nb 1\n", "2 lines; two lines for each of 6000"),
        ("CPLFW", "a one\n", "line 1: 'file label'"),
        ("CPLFW", "a 1\n" * 12000, "6000 genuine pairs of 6000"),
        ("IJBB", "", "no pair list of the data set 'IJBB'"),
    ):
        with pytest.raises(VerificationSetError, match=message):
            parse_pairs(name, text)


def test_npair_without_options_is_cross_entropy() -> None:
    torch.manual_seed(0)
    a, p = (F.normalize(torch.randn(5, 7, dtype=torch.float64)) for _ in range(2))
    loss = NPairLoss(s=3.0)
    plain = loss(a, p, torch.arange(5), mean_anchors=False)
    torch.testing.assert_close(plain, F.cross_entropy(3 * a @ p.T, torch.arange(5)))
    inputs = [t.requires_grad_() for t in (a, p)]
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, torch.tensor([0, 1, 0, 2, 2]), True, True), inputs)
