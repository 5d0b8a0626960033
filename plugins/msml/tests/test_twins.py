"""Masked twins beside a training set: read with their pictures, used with a probability, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from facex_msml.twins import MaskedTwins, UseTwin

from facex.data.draws import Draws
from facex.data.imageio import encode_png
from facex.data.recordio import RecordFile
from facex.data.writer import FaceSetWriter
from facex.errors import ConfigError, DataError
from facex.methods import Batch, Field

COUNT, SIDE = 12, 32


def write_records(path: Path, pictures: np.ndarray) -> None:
    """A record file whose keys are those of train.rec."""
    with FaceSetWriter(path.parent / path.stem, 3, (SIDE, SIDE), fields={}) as writer:
        for number, picture in enumerate(pictures):
            writer.add(encode_png(picture), number * 3 // len(pictures))
    for suffix in (".rec", ".idx"):
        (path.parent / path.stem / f"train{suffix}").rename(path.with_suffix(suffix))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Faces of value 10 + i, twins of 100 + i, masks occluded in the lower half."""
    values = np.arange(COUNT, dtype=np.uint8)[:, None, None, None]
    faces = np.broadcast_to(values + 10, (COUNT, SIDE, SIDE, 3))
    masks = np.full((COUNT, SIDE, SIDE, 3), 250, np.uint8)
    masks[:, SIDE // 2 :] = 7
    for name, pictures in (("train", faces), ("mask_out", faces + 90), ("mask", masks)):
        write_records(tmp_path / f"{name}.rec", np.ascontiguousarray(pictures))
    (tmp_path / "property").write_text(f"3,{SIDE},{SIDE}")
    return tmp_path


def batch_of(twins: MaskedTwins) -> Batch:
    fields = twins.allocate(COUNT, False)
    twins.read(np.arange(COUNT), fields)
    return Batch(fields, twins.kinds, twins.color, torch.arange(COUNT), torch.arange(COUNT))


def test_twins_are_read_beside_their_pictures(folder: Path) -> None:
    twins = MaskedTwins(folder)
    assert (len(twins), twins.num_classes, twins.size, twins.color) == (COUNT, 3, (SIDE, SIDE), "rgb")
    batch = batch_of(twins)
    assert batch["image"][:, 0, 0, 0].tolist() == [10 + i for i in range(COUNT)]
    assert batch["masked"][:, 0, 0, 0].tolist() == [100 + i for i in range(COUNT)]
    assert not batch["masked_occlusion"][:, : SIDE // 2].any()
    assert set(batch["masked_occlusion"][:, SIDE // 2 :].unique().tolist()) == {255}
    assert twins.labels().tolist() == [i // 4 for i in range(COUNT)]


def test_a_twin_replaces_picture_and_mask(folder: Path) -> None:
    batch = batch_of(MaskedTwins(folder))
    occluded = torch.zeros(COUNT, SIDE, SIDE, dtype=torch.uint8)
    occluded[:, :4] = 255
    batch = batch.with_fields(occlusion=occluded, occluder=torch.full((COUNT,), 3))
    draws = Draws(1, 2, torch.arange(COUNT))
    out = UseTwin(0.5)(batch, draws)
    twin = out["twin"]
    assert 0 < int(twin.sum()) < COUNT
    assert out["image"][:, 0, 0, 0].tolist() == [100 + i if t else 10 + i for i, t in enumerate(twin.tolist())]
    assert torch.equal(out["occlusion"][twin], batch["masked_occlusion"][twin])
    assert torch.equal(out["occlusion"][~twin], occluded[~twin])
    assert out["occluder"].tolist() == [0 if t else 3 for t in twin.tolist()]
    assert "masked" not in out and "masked_occlusion" not in out.kinds
    assert out.kinds["occlusion"] == Field("mask")
    assert bool(UseTwin(1.0)(batch_of(MaskedTwins(folder)), draws)["occlusion"].any())


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    batch = batch_of(MaskedTwins(folder))
    plain = Batch({"image": batch["image"]}, {"image": Field("image")}, "rgb", batch.index, batch.position)
    with pytest.raises(ConfigError, match="MaskedTwins"):
        UseTwin()(plain, Draws(0, 0, batch.position))
    with pytest.raises(ConfigError, match="no probability"):
        UseTwin(1.5)
    small = np.zeros((COUNT, 16, 16, 3), np.uint8)
    write_records(folder / "mask.rec", small)
    with pytest.raises(DataError, match=r"mask\.rec: key \d+: a twin of \(16, 16\), the pictures have \(32, 32\)"):
        batch_of(MaskedTwins(folder))
    write_records(folder / "mask_out.rec", small[:5])
    assert len(RecordFile(folder / "mask_out.rec").keys) < COUNT
    with pytest.raises(DataError, match=r"no twin for key \d+"):
        MaskedTwins(folder)
    (folder / "mask_out.rec").unlink()
    with pytest.raises(DataError, match=r"mask_out\.rec is missing"):
        MaskedTwins(folder)
