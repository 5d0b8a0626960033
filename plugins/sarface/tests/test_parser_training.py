"""The face parser as a method: its loss, what it reads, flips, and a training whose run SARFace and the official file take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from facex_sarface import parser_command
from facex_sarface.golden_context import OneRank
from facex_sarface.masking import PARSER
from facex_sarface.options import ParserConfig
from facex_sarface.parser import parse
from facex_sarface.parser_loading import load_parser
from facex_sarface.parser_shapes import parser_options
from facex_sarface.parser_training import FaceParser
from facex_sarface.pretrain import SARFacePretrain
from facex_sarface.swiftformer import VARIANTS, SwiftFormerParser

from facex.commands import convert
from facex.data.companions import KNOWN
from facex.data.draws import Draws
from facex.data.transforms import HorizontalFlip
from facex.errors import CheckpointError, ConfigError, DataError
from facex.heads import CosFace
from facex.methods import Batch, Field, InputSpec, Source
from facex.train.parsing import parse as parse_arguments
from facex.train.trainer import train
from plugins.sarface.tests.tiny_parser import OPTIONS, SIDE, WORDS, rendered, tiny_parser
from tests.configs import recipes


def batch_of(count: int = 3, side: int = SIDE) -> Batch:
    """Noise under label maps of blocks, a quarter of which nobody labelled."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    maps = torch.randint(0, 19, (count, 6, 6), dtype=torch.uint8, generator=generator)
    maps[:, :3, :3] = 255
    maps = maps.repeat_interleave(side // 6, 1).repeat_interleave(side // 6, 2)
    kinds = {"image": Field("image"), "parsing": KNOWN["parsing"]}
    return Batch({"image": images, "parsing": maps}, kinds, "rgb", torch.arange(count) + 40, torch.arange(count))


def context(method: FaceParser) -> OneRank:
    return OneRank(method, method.networks(), None)


def test_the_loss_is_the_mean_over_labelled_pixels() -> None:
    method = tiny_parser()
    ctx = context(method)
    batch = method.prepare(batch_of(), ctx)
    update = next(iter(method.training_step(batch, ctx)))
    logits, labels = method.parser(batch["image"]).detach().double().numpy(), batch["parsing"].numpy()
    costs, right = [], []
    for picture, row, column in np.argwhere(labels != 255):
        z, y = logits[picture, :, row, column], labels[picture, row, column]
        costs.append(np.log(np.exp(z).sum()) - z[y])
        right.append(z.argmax() == y)
    assert update.losses["ce"].item() == pytest.approx(np.mean(costs), rel=1e-5)
    assert update.logs["accuracy"].item() == pytest.approx(np.mean(right), abs=1e-6) and update.embeddings is None
    assert 0 < len(costs) < labels.size
    update.losses["ce"].backward()
    batch["parsing"][labels == 255] = 7  # what was not labelled costs now
    assert next(iter(method.training_step(batch, ctx))).losses["ce"].item() != update.losses["ce"].item()
    assert method.visuals(batch, ctx).images["parsing"].shape == (3, 64, 192, 3)


@pytest.mark.parametrize("parser_input", ["official", "rgb_imagenet"])
def test_it_learns_from_what_sarface_lets_it_read(parser_input: str) -> None:
    method = tiny_parser(parser_input=parser_input)
    images = batch_of(side=96)["image"]
    theirs = parse(method.parser, InputSpec(96, 96, "bgr").to_tensor(images, "rgb"), 64, None, parser_input)  # type: ignore[arg-type]
    prepared = method.prepare(batch_of(side=96), context(method))["image"]
    mine = method.embed(prepared, method.networks()).maps["parsing"]
    assert (mine == theirs).float().mean() > 0.999 and len(mine.unique()) > 3


def test_labels_keep_their_place_at_another_size() -> None:
    prepared = tiny_parser(size=96).prepare(batch_of(), context(tiny_parser()))["parsing"]
    assert torch.equal(prepared, batch_of()["parsing"].repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_a_flip_exchanges_left_and_right() -> None:
    batch = batch_of()
    flipped = HorizontalFlip(1.0)(batch, Draws(0, 0, batch.position))
    names = {4: 5, 5: 4, 6: 7, 7: 6, 8: 9, 9: 8}
    wanted = np.vectorize(lambda v: names.get(v, v))(batch["parsing"].numpy()[:, :, ::-1])
    assert np.array_equal(flipped["parsing"].numpy(), wanted) and {4, 7, 8} & set(wanted.ravel().tolist())
    method = tiny_parser()
    x = method.prepare(batch, context(method))["image"]
    with torch.no_grad():
        one = method.embed(x, method.networks(), flip=True).maps["parsing"].numpy()
        other = method.embed(x.flip(3), method.networks(), flip=True).maps["parsing"].numpy()
    assert (np.vectorize(lambda v: names.get(v, v))(one[:, :, ::-1]) == other).mean() > 0.999


def test_bad_labels_and_options() -> None:
    method = tiny_parser()
    batch = batch_of()
    batch["parsing"][1, 2, 3] = 19
    with pytest.raises(DataError, match=r"sample 41: .*classes \[19\]; known are 0..18"):
        method.prepare(batch, context(method))
    with pytest.raises(ConfigError, match="micro-batch of one picture"):
        next(iter(method.train().training_step(method.prepare(batch_of(1), context(method)), context(method))))
    with pytest.raises(ConfigError, match="multiple of 32"):
        FaceParser(size=100)
    with pytest.raises(ConfigError, match=r"method\.options"):
        FaceParser(options={"colour": 1})


@pytest.mark.parametrize("variant", ["xs", "l1_tiny"])
def test_the_architecture_is_told_by_the_tensors(variant: str) -> None:
    widths, depths = VARIANTS[variant]
    with torch.device("meta"):
        assert parser_options(SwiftFormerParser(variant).state_dict()) == {"variant": variant}  # type: ignore[arg-type]
        assert parser_options(SwiftFormerParser("xs", classes=11).state_dict()) is None
    assert parser_options(tiny_parser().parser.state_dict()) == {"options": OPTIONS}
    assert parser_options({"model.weight": torch.zeros(1)}) is None and widths and depths


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training by the command."""
    root = tmp_path_factory.mktemp("parser")
    argv = [str(rendered(root / "faces")), str(root / "run"), *WORDS, "--trainer.steps", "12"]
    argv += ["--trainer.global_batch", "8", "--trainer.precision", "fp32", "--optimizer.lr", "0.01"]
    argv += ["--logging.tensorboard", "false", "--schedule.warmup_epochs", "0", "--trainer.log_every", "1"]
    parsed = parse_arguments(parser_command.train_arguments(argv))
    assert (parsed.config.optimizer.name, parsed.config.trainer.epochs) == ("adamw", None)
    train(parsed.config, parsed.resolved)
    return root / "run"


def test_it_learns(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["parser/loss"] for line in lines if "parser/loss" in line]
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    argv = ["eval", str(run), str(run.parent / "faces"), "--json", str(tmp_path / "s.json"), "--batch-size", "7"]
    assert parser_command.main(argv) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["pictures"] == 24 and scores["pixel_accuracy"] > 0.5 and len(scores["classes"]) == 19
    sure = scores["confidence"]
    assert set(sure) == {"official", "rgb_imagenet"} and sure["official"] != sure["rgb_imagenet"]
    assert all(1 / 19 < value <= 1 for value in sure.values())
    printed = capsys.readouterr().out
    assert "mean IoU" in printed and f"by --parser-input: official {sure['official']:.4f}" in printed


def test_sarface_takes_the_run(run: Path) -> None:
    config = ParserConfig("l1", 64, options=OPTIONS)
    method = SARFacePretrain(CosFace(), "ir_18", 8, {"width": 0.125, "blocks": [1, 1, 1, 1]}, parser=config)
    (report,) = method.init_from([Source(run, network=PARSER)])
    assert report.loaded and not report.missing and PARSER in method._loaded
    mine, theirs = load_parser(run), method.frozen()[PARSER].module.eval()
    for key, value in theirs.state_dict().items():
        assert torch.equal(mine.module.state_dict()[key], value), key
    assert mine.config == replace(config, variant="l1")


def test_the_official_file_and_back(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "parser.pth"
    assert convert.main([str(run), str(file)]) == 0
    state = torch.load(file, weights_only=True)
    assert set(state) == set(load_parser(run).module.state_dict())
    images = batch_of()["image"]
    mine, theirs = load_parser(run).labels(images, "rgb"), load_parser(file, size=64).labels(images, "rgb")
    assert torch.equal(mine, theirs)
    assert torch.equal(mine, load_parser(run).labels(images.flip(3), "bgr"))
    assert convert.main([str(file), str(tmp_path / "back"), "--method", "FaceParser"]) == 0
    assert torch.equal(load_parser(tmp_path / "back", size=64).labels(images, "rgb"), mine)


@pytest.mark.parametrize(("name", "rate"), [("parser_celebamaskhq.yaml", 0.001), ("demo_parser.yaml", 0.003)])
def test_recipes(name: str, rate: float) -> None:
    config = recipes.resolved("sarface", name, *WORDS)
    assert config["optimizer"] | {"name": "adamw", "lr": rate, "weight_decay": 0.05} == config["optimizer"]
    assert config["schedule"]["kind"] == "cosine" and config["method"]["class_path"].endswith("FaceParser")
    assert "facex.data.transforms.HorizontalFlip" in [t["class_path"] for t in config["data"]["transforms"]]


def test_what_is_no_parser(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no face parser"):
        load_parser(tmp_path / "other.pth")
    torch.save(tiny_parser().parser.state_dict(), tmp_path / "p.pth")
    with pytest.raises(ConfigError, match="label table has 2 entries, the parser 19"):
        load_parser(tmp_path / "p.pth", table=[0, 1])
    with pytest.raises(DataError, match="square"):
        load_parser(tmp_path / "p.pth", size=32).labels(torch.zeros(1, 40, 48, 3, dtype=torch.uint8), "rgb")
    with pytest.raises(ConfigError, match="expected one of train, eval, pack"):
        parser_command.main(["trian"])
    with pytest.raises(ConfigError, match="come first"):
        parser_command.main(["train", "--trainer.epochs", "1"])
    assert parser_command.main(["train", "--help"]) == parser_command.main([]) == 0
