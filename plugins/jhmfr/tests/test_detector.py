"""The mask detector: it learns masks, writes flags that evaluation reads, and refuses what is no detector."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facex_jhmfr import JHMFRDetector, flags_command
from facex_jhmfr.detect import Detector

from facex.commands.convert import write_run
from facex.data.flag_lists import flags_of_pictures
from facex.data.imageio import encode_png
from facex.data.verification import load_bin, write_bin
from facex.errors import ConfigError, DataError
from facex.methods import Batch, Field
from plugins.jhmfr.tests.tiny_jhmfr import SHAPE, context, tuned


def pictures(count: int, masked: np.ndarray) -> np.ndarray:
    """Spots, 56 x 56, with a bright lower half where `masked`."""
    spots = np.random.default_rng(0).integers(0, 120, (count, 7, 7, 3), np.uint8)
    images = np.stack([cv2.resize(each, (56, 56)) for each in spots])
    images[masked, 28:] = 230
    return images


def trained() -> JHMFRDetector:
    """A detector after 60 steps on such pictures."""
    torch.manual_seed(0)
    method = JHMFRDetector()
    flags = np.arange(16) % 2 == 1
    x = method.input.to_tensor(torch.from_numpy(pictures(16, flags)), "rgb")
    batch = Batch(
        {"image": x, "flag": torch.from_numpy(flags)},
        {"flag": Field("flag")},
        "rgb",
        torch.arange(16),
        torch.arange(16),
    )
    optimizer = torch.optim.AdamW(method.parameters(), 0.01)
    for _ in range(60):
        update = next(method.training_step(batch, context(method)))
        update.losses["bce"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert update.losses["bce"].item() < 0.1 and float(update.logs["accuracy"]) == 1
    return method


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    write_run(folder / "run", trained(), "facex_jhmfr.JHMFRDetector", {}, None, "test")
    return folder / "run"


def test_it_is_small_and_wants_flags() -> None:
    method = JHMFRDetector(flags="companion")
    assert sum(4 * p.numel() for p in method.parameters()) < 200_000 and "flag" in method.needs
    batch = Batch({"image": torch.zeros(1, 3, 56, 56)}, {}, "rgb", torch.arange(1), torch.arange(1))
    with pytest.raises(ConfigError, match="add the transform MaskFaces"):
        next(method.training_step(batch, context(method)))


def test_flags_of_sets_and_folders(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.array([True, False, False, True])
    images = pictures(4, truth)
    write_bin(tmp_path / "some.bin", [encode_png(image) for image in images], [True, False])
    (tmp_path / "faces" / "p").mkdir(parents=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / "faces" / "p" / f"{i}.png"), cv2.resize(image, (80 + i, 80 + i)))
    flags_command.main([str(run), str(tmp_path / "some.bin"), str(tmp_path / "faces"), "--batch-size", "3"])
    assert capsys.readouterr().out.count("2 of 4 pictures show a mask") == 2
    assert load_bin(tmp_path / "some.bin").flags.tolist() == truth.tolist()
    names = [f"p/{i}.png" for i in range(4)]
    assert flags_of_pictures(tmp_path / "faces.flags.txt", names).tolist() == truth.tolist()


def test_what_cannot_be(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        flags_command.main([str(run), str(tmp_path)])
    with pytest.raises(ConfigError, match="--out names the file of one folder"):
        flags_command.main([str(run), str(tmp_path), str(tmp_path), "--out", "x.txt"])
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.png: cannot be read"):
        Detector(run).files(tmp_path, ["broken.png"])
    options = {"embedding_size": 8, "input": {"height": 32, "width": 32}, "backbone_options": SHAPE}
    write_run(
        tmp_path / "net",
        tuned({"prompt_layers": 0}),
        "facex_jhmfr.JHMFR",
        {**options, "backbone_options": {**SHAPE, "prompt_layers": 0}},
        None,
        "t",
    )
    with pytest.raises(ConfigError, match="a run of JHMFR, not of JHMFRDetector"):
        Detector(tmp_path / "net")
