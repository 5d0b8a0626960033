"""Mask flags beside a verification set reach the method, and accuracies come by condition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from facex.data.verification import load_bin, write_bin
from facex.errors import VerificationSetError
from facex.eval.conditions import by_condition
from facex.eval.run import evaluate_bins
from facex.eval.verification import evaluate_pairs
from facex.methods import Embedding, InputSpec, Method


class FlagReader(Method):
    """Embeds a picture as its pixels, times -1 where the flag is set."""

    input = InputSpec(16, 16)

    def networks(self) -> dict[str, nn.Module]:
        return {"none": nn.Identity()}

    def embed(self, images: Any, nets: Any, side: Any = None, flip: bool = False) -> Embedding:
        sign = torch.ones(len(images)) if side is None else 1 - 2 * side["flag"].float()
        return Embedding(images.flatten(1) * sign[:, None])


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """24 pairs: the same picture twice, or two pictures; in each third another condition."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), dtype=np.uint8)
    noise[1::4] = noise[::4]
    write_bin(
        tmp_path / "masked.bin", [cv2.imencode(".png", p)[1].tobytes() for p in noise], [i % 2 == 0 for i in range(24)]
    )
    return tmp_path / "masked.bin"


def flags_of(path: Path, values: Any) -> None:
    np.save(path.with_suffix(".flags.npy"), np.asarray(values))


def test_flags_reach_the_method_and_make_conditions(pairs: Path) -> None:
    assert load_bin(pairs).flags is None
    method = FlagReader()
    plain = evaluate_bins(method, method.networks(), [pairs], folds=4, flip=False)["masked"]
    assert plain["accuracy"] == 1.0 and not any(name.startswith("accuracy ") for name in plain)
    flags = np.zeros((24, 2), int)
    flags[8:16, 1], flags[16:] = 1, 1
    flags_of(pairs, flags.reshape(-1))
    found = evaluate_bins(method, method.networks(), [pairs], folds=4, flip=False, batch_size=7)["masked"]
    assert found["accuracy H-H"] == found["accuracy M-M"] == 1.0
    assert found["accuracy H-M"] < 1.0  # there a picture is its own opposite
    assert found["accuracy"] < 1.0


def test_conditions_are_the_pairs_alone() -> None:
    rng = np.random.default_rng(1)
    rows, same, masked = rng.standard_normal((80, 6)), rng.random(40) < 0.5, rng.random(80) < 0.5
    found = by_condition(rows, same, masked, 5)
    assert set(found) == {"H-H", "H-M", "M-M"}
    both = masked[::2] & masked[1::2]
    alone = evaluate_pairs(rows.reshape(40, 2, 6)[both].reshape(-1, 6), same[both], 5, val_far=None, uneven_folds=True)
    np.testing.assert_array_equal(found["M-M"].fold_accuracy, alone.fold_accuracy)
    assert sum(len(r.scores) for r in found.values()) == 40
    assert by_condition(rows, np.ones(40, bool), masked, 5) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(47), "48 images"),
        (np.full(48, 2), "not 2"),
        (np.zeros((24, 2)), "one an image"),
        (np.array(["a"] * 48), "one an image"),
    ],
)
def test_flags_that_cannot_be(pairs: Path, values: Any, message: str) -> None:
    flags_of(pairs, values)
    with pytest.raises(VerificationSetError, match=message):
        load_bin(pairs)
    pairs.with_suffix(".flags.npy").write_bytes(b"no array")
    with pytest.raises(VerificationSetError, match=r"not a \.npy array"):
        load_bin(pairs)
