"""Pictures of masks and stages: colours where the mask says so, every element drawn, the official set of files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from facex.data.verification import VerificationSet
from facex.errors import ConfigError, DataError
from facex.eval import mask_plots
from facex.eval.mask_plots import Shown, gallery, mask_picture, overlay, scatter, show, stages_of, write_explanation
from facex.eval.occlusion import OcclusionProtocol
from facex.methods import Embedding
from facex.methods.method import Nets
from tests.eval.tiny import Tiny, encode, faces

PROTOCOL = OcclusionProtocol((0, 20, 40), repeats=2)


class Blind(Tiny):
    """Tiny, which sees no occlusion."""


class Explaining(Tiny):
    """Calls black occluded, at its own 8 x 8 pixels, and shows one stage."""

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        return Embedding(super().embed(images, nets, side, flip).vector, maps={"occlusion": self.black(images)})

    def black(self, images: Tensor) -> Tensor:
        return (images < -0.9).all(1).half()

    def explain(self, images: Tensor, nets: Nets) -> dict[str, Tensor]:
        mask = torch.sigmoid(images)
        stage = {"8_mul/features": images, "8_mul/mask": mask, "8_mul/purified": images * mask}
        return {"occlusion": self.black(images), **stage}


@pytest.fixture(scope="module")
def one() -> VerificationSet:
    return VerificationSet([encode(image) for image in faces(2).reshape(-1, 112, 112, 3)], np.ones(2, bool), "set")


def test_overlay_and_mask_picture() -> None:
    face = np.full((8, 8, 3), 100, np.uint8)
    occluded = np.zeros((4, 4), bool)
    occluded[0, 0] = True
    found = overlay(face, occluded, (0, 255, 0))
    assert (found[:2, :2] == (50, 177, 50)).all()
    assert (found[2:] == 100).all()
    assert (found[:, 2:] == 100).all()
    assert mask_picture(occluded).tolist()[0] == [0, 255, 255, 255]


def test_show_sees_what_the_evaluation_saw(one: VerificationSet) -> None:
    method = Explaining()
    shown = show(method, method.networks(), one, PROTOCOL, 1, "block 40 %")
    assert shown.truth.sum() == int((0.4 * 112 * 112) ** 0.5) ** 2
    assert (shown.images[shown.truth] == 0).all()
    assert shown.predicted is not None
    assert shown.predicted.shape == (1, 8, 8)
    assert shown.predicted.any()
    assert list(shown.maps) == ["8_mul/features", "8_mul/mask", "8_mul/purified"]
    again = show(method, method.networks(), one, PROTOCOL, 1, "block 40 %")
    assert np.array_equal(shown.images, again.images)
    with pytest.raises(ConfigError, match="block 0 %, block 20 %, block 40 %"):
        show(method, method.networks(), one, PROTOCOL, 1, "block 41 %")
    with pytest.raises(ConfigError, match="no entry 4; there are 0 to 3"):
        show(method, method.networks(), one, PROTOCOL, 4, "block 40 %")


def test_gallery(one: VerificationSet) -> None:
    method = Explaining()
    items = gallery(method, method.networks(), one, PROTOCOL, (0, 2))
    assert [caption.split(" · ") for _, caption in items] == [
        [f"block {ratio} %", f"entry {entry}"] for ratio in (20, 40) for entry in (0, 2)
    ]
    picture = cv2.imdecode(np.frombuffer(items[0][0], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (112, 3 * 112 + 2 * 4, 3)
    blind = Blind()
    assert gallery(blind, blind.networks(), one, PROTOCOL, (0,)) == []


def test_official_files(one: VerificationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_plots, "_DPI", 60)
    method = Explaining()
    shown = show(method, method.networks(), one, PROTOCOL, 3, "block 20 %")
    files = write_explanation(tmp_path / "vis", "lfw3", shown)
    names = {"lfw3_truth.png", "lfw3_learned.png", "fm_cm_8_mul.png", "fm_cp_8_mul.png"}
    assert {file.name for file in files} == {file.name for file in (tmp_path / "vis").iterdir()} == names
    learned = cv2.imread(str(tmp_path / "vis" / "lfw3_learned.png"), cv2.IMREAD_GRAYSCALE)
    assert shown.predicted is not None
    assert np.array_equal(learned == 255, ~shown.predicted[0])
    truth = cv2.imread(str(tmp_path / "vis" / "lfw3_truth.png"))
    assert np.array_equal(truth[..., ::-1], shown.images[0])
    with pytest.raises(DataError, match="nothing to draw"):
        write_explanation(tmp_path, "x", Shown(shown.images, shown.truth, None, {}))


def test_scatter_draws_every_element_in_its_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clouds, one of either colour of the official scale."""
    monkeypatch.setattr(mask_plots, "_DPI", 100)
    x = np.concatenate([np.full(500, 0.1), np.full(500, 0.9)]) + np.random.default_rng(0).normal(0, 0.01, 1000)
    shade = np.repeat([0.3, 0.7], 500)
    png = scatter(x, x[::-1], shade, "x", "y", diagonal=True)
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).astype(int)
    purple, green, red = ((np.abs(image - c).max(2) < 8) for c in ((141, 95, 53), (109, 191, 68), (0, 0, 255)))
    assert purple.sum() > 50
    assert green.sum() > 50
    assert red.sum() > 20
    assert np.nonzero(purple)[1].max() < np.nonzero(green)[1].min()  # by x
    assert np.nonzero(purple)[0].max() < np.nonzero(green)[0].min()  # by y, reversed


def test_stages_must_fit() -> None:
    good = np.zeros((1, 2, 3, 3))
    whole = {"s/features": good, "s/mask": good, "s/purified": good, "other": np.zeros(3)}
    assert list(stages_of(whole)) == ["s"]
    assert stages_of({}) == {}
    for wrong in ({"s/mask": good}, {**whole, "s/mask": good[:, :1]}, {**whole, "s/mask": good[0]}):
        with pytest.raises(DataError, match="stage s"):
            stages_of(wrong)
