"""`synthetic:CLASSES[xIMAGES]`: the speed test's data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facex.data.dataset import FaceDataset, open_dataset
from facex.errors import ConfigError, DataError


def test_one_picture_and_every_class() -> None:
    faces = open_dataset("synthetic:7x20", size=32, color="bgr")
    assert isinstance(faces, FaceDataset)
    assert (len(faces), faces.num_classes, faces.size, faces.color) == (20, 7, (32, 32), "bgr")
    out = faces.allocate(3)
    faces.read(np.array([0, 8, 19]), out)
    assert out["label"].tolist() == [0, 1, 5]
    assert torch.equal(out["image"][0], out["image"][2])
    assert len(out["image"][0].unique()) > 100
    assert set(faces.labels().tolist()) == set(range(7))
    assert len(open_dataset("synthetic:300000")) == 1_000_000


def test_refusals() -> None:
    for text in ("synthetic:", "synthetic:0", "synthetic:3x0", "synthetic:many"):
        with pytest.raises(ConfigError, match="synthetic:CLASSESxIMAGES"):
            open_dataset(text)
    with pytest.raises(DataError, match="no landmarks"):
        open_dataset("synthetic:3", fields=("image", "label", "landmarks"))
