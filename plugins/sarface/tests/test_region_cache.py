"""The region cache: the same maps as the parser's, left and right exchanged by a flip, resumed and shared work, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facex_sarface import region_cache_command
from facex_sarface.golden_context import OneRank
from facex_sarface.masking import FIELD, PARSER
from facex_sarface.options import ParserConfig
from facex_sarface.parser_loading import LoadedParser, load_parser
from facex_sarface.pretrain import SARFacePretrain
from facex_sarface.region_cache import PARTS, CacheOptions, write_region_cache

from facex.commands.convert import write_run
from facex.data import RecordFile, open_dataset
from facex.data.imageio import encode_png
from facex.data.loader import BatchLoader
from facex.data.transforms import HorizontalFlip
from facex.data.writer import RecordWriter
from facex.errors import ConfigError
from facex.heads import CosFace
from facex.methods import Batch, InputSpec
from plugins.sarface.tests.tiny_parser import OPTIONS, rendered, tiny_parser

SIDE = 64  # of the pictures, so that the parser reads them as they are


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered faces with landmarks alone."""
    return rendered(tmp_path_factory.mktemp("cache") / "faces", "[landmarks5]")


@pytest.fixture
def copy(faces: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(faces, tmp_path / "copy"))


def parser(size: int = 64) -> LoadedParser:
    method = tiny_parser(size)
    return LoadedParser(method.parser, method.config, "tiny")


def read(folder: Path, size: int | None = None, color: str = "rgb") -> dict[str, torch.Tensor]:
    dataset = open_dataset(folder, color=color, size=size, fields=("image", FIELD), threads=1)
    rows = dataset.allocate(len(dataset))
    dataset.read(np.arange(len(dataset)), rows)
    return rows


def method(parsing: str) -> SARFacePretrain:
    torch.manual_seed(0)
    small: dict[str, Any] = {"backbone_options": {"width": 0.125, "blocks": [1, 1, 1, 1]}, "parsing": parsing}
    config = ParserConfig(size=64, options=OPTIONS) if parsing == "parser" else None
    spec = InputSpec(SIDE, SIDE, "bgr")
    found = SARFacePretrain(CosFace(), "ir_18", 8, input=spec, parser=config, **small).eval()
    if found.parser is not None:
        found.parser.load_state_dict(tiny_parser().parser.state_dict())
        found._loaded = {PARSER}
    return found


def prepared(folder: Path, parsing: str, transforms: tuple[Any, ...] = ()) -> Batch:
    """The first batch of a training from the loader, as the method prepares it."""
    one = method(parsing)
    dataset = open_dataset(folder, color="bgr", size=SIDE, fields=sorted(one.needs), threads=1)
    loader = BatchLoader(dataset, 12, 12, transforms=transforms, prefetch=0)
    (batch,) = next(iter(loader.epoch(0)))
    nets = {**one.networks(), **({PARSER: one.parser} if one.parser is not None else {})}
    return one.prepare(batch, OneRank(one, nets, None))


def test_training_sees_the_parser_s_regions_without_parser(faces: Path, tmp_path: Path) -> None:
    written = write_region_cache(faces, parser(), tmp_path / "set", CacheOptions(size=SIDE, batch_size=5))
    assert written == tmp_path / "set" / "parsing.rec" and not (tmp_path / "set" / PARTS).exists()
    with_parser, with_cache = prepared(faces, "parser"), prepared(tmp_path / "set", "data")
    assert torch.equal(with_parser["image"], with_cache["image"])
    assert torch.equal(with_parser["regions"], with_cache["regions"])
    assert len(with_cache["regions"].unique()) > 10 and method("data").frozen() == {}
    flips = (HorizontalFlip(1.0),)
    flipped = prepared(tmp_path / "set", "data", flips)[FIELD].numpy()
    names = {4: 5, 5: 4, 6: 7, 7: 6, 8: 9, 9: 8}
    mirrored = np.vectorize(lambda v: names.get(v, v))(with_cache[FIELD].numpy()[:, :, ::-1])
    assert np.array_equal(flipped, mirrored) and {4, 5, 6, 7, 8, 9} & set(mirrored.ravel().tolist())
    assert torch.equal(prepared(tmp_path / "set", "data", flips)["image"], prepared(faces, "parser", flips)["image"])


def test_maps_lie_beside_the_pictures_at_their_size(copy: Path) -> None:
    assert region_cache_command.build_parser().prog == "facex sarface-regions"
    write_region_cache(copy, parser(), options=CacheOptions(part_size=10))
    rows = read(copy)
    assert torch.equal(rows[FIELD], parser().labels(rows["image"], "rgb")) and rows[FIELD].shape == (24, 48, 48)
    with pytest.raises(ConfigError, match="there are label maps already"):
        write_region_cache(copy, parser())
    other = LoadedParser(tiny_parser(32).parser, tiny_parser(32).config, "other")
    write_region_cache(copy, other, options=CacheOptions(overwrite=True))
    assert torch.equal(read(copy)[FIELD], other.labels(rows["image"], "rgb"))
    assert not torch.equal(read(copy)[FIELD], rows[FIELD])


def test_interrupted_and_shared_work(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counting(LoadedParser):
        def labels(self, images: torch.Tensor, color: str) -> torch.Tensor:
            seen.append(len(images))
            if sum(seen) > 14:
                raise KeyboardInterrupt
            return super().labels(images, color)

    options = CacheOptions(part_size=7, batch_size=7)
    with pytest.raises(KeyboardInterrupt):
        write_region_cache(copy, Counting(parser().module, parser().config, "x"), options=options)
    assert not (copy / "parsing.rec").exists() and len(list((copy / PARTS).glob("*.idx"))) == 2
    assert open_dataset(copy)  # the set is as good as before
    with pytest.raises(ConfigError, match=r"parts of another run \(part_size differ"):
        write_region_cache(copy, parser(), options=CacheOptions(part_size=8))
    with pytest.raises(ConfigError, match=r"parts of another run \(parser differ"):
        write_region_cache(copy, parser(32), options=options)
    done: list[tuple[int, int]] = []
    shard = CacheOptions(part_size=7, batch_size=7, shard=(1, 2))
    assert write_region_cache(copy, parser(), None, shard, lambda *n: done.append(n)) == copy / PARTS
    assert done == [(7, 10), (10, 10)] and not (copy / "parsing.rec").exists()
    seen.clear()
    write_region_cache(copy, Counting(parser().module, parser().config, "x"), options=options)
    assert seen == [7]  # the part that nobody had made
    rows = read(copy)
    assert torch.equal(rows[FIELD], parser().labels(rows["image"], "rgb"))


def test_an_image_folder_and_the_command(tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = open_dataset(faces, threads=1)
    rows = pictures.allocate(6)
    pictures.read(np.arange(6), rows)
    for k in range(6):
        (tmp_path / "img" / f"p{k // 3}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "img" / f"p{k // 3}" / f"{k}.png").write_bytes(encode_png(rows["image"][k].numpy()))
    arguments = {"size": 64, "options": OPTIONS}
    write_run(tmp_path / "run", tiny_parser(), "facex_sarface.parser_training.FaceParser", arguments, None, "test")
    argv = [
        str(tmp_path / "set"),
        "--data",
        str(tmp_path / "img"),
        "--parser",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    assert region_cache_command.main(argv) == 0
    assert "train with --method.parsing data" in capsys.readouterr().out
    found = read(tmp_path / "set")
    assert torch.equal(found["image"], rows["image"])
    assert torch.equal(found[FIELD], load_parser(tmp_path / "run").labels(rows["image"], "rgb"))
    assert sorted(p.name for p in (tmp_path / "img").iterdir()) == ["p0", "p1"]
    with pytest.raises(ConfigError, match="lies among the pictures"):
        region_cache_command.main([str(tmp_path / "img" / "x"), *argv[1:]])
    with pytest.raises(ConfigError, match="expected i/n"):
        region_cache_command.main([*argv, "--shard", "2"])
    with pytest.raises(ConfigError, match="shards of n are"):
        region_cache_command.main([*argv, "--shard", "4/4"])


def test_damaged_records_keep_their_place(copy: Path) -> None:
    good = RecordFile(copy / "train.rec")
    records = {int(key): good.read(int(key)) for key in good.keys}
    records[3] = b"short"
    (copy / "train.idx").unlink()
    with RecordWriter(copy / "train") as writer:
        for key, record in records.items():
            writer.write(key, record)
    write_region_cache(copy, parser(), options=CacheOptions(on_error="skip"))
    dataset = open_dataset(copy, fields=("image", FIELD), on_error="skip", threads=1)
    rows = dataset.allocate(len(dataset))
    dataset.read(np.arange(len(dataset)), rows)
    assert len(dataset) == 23 and torch.equal(rows[FIELD], parser().labels(rows["image"], "rgb"))
