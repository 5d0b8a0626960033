"""A small SARFace, its batches and contexts, and real runs of it, for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from facex_sarface.golden_context import OneRank
from facex_sarface.method import SARFace
from facex_sarface.options import ParserConfig
from facex_sarface.pretrain import SARFacePretrain
from torch import Tensor, nn

from facex.data.draws import Draws
from facex.heads import CosFace, MarginHead
from facex.methods import Batch, Field, InputSpec
from facex.train.parsing import parse
from facex.train.trainer import RunResult, train

SIDE, CLASSES, DIM = 48, 5, 8
NETWORK: dict[str, Any] = {
    "backbone": "ir_18",
    "embedding_size": DIM,
    "backbone_options": {"width": 0.125, "blocks": [1, 1, 1, 1]},
    "input": {"height": SIDE, "width": SIDE, "color": "bgr"},
    "parsing": "data",
}
PARSER = ParserConfig(size=64, options={"widths": (8, 16, 16, 16), "depths": (1, 1, 1, 1)})


class TinyPolicy(nn.Module):
    """Logits from the masks of the regions and the picture's mean colours, through a BatchNorm."""

    def __init__(self, actions: int, regions: int) -> None:
        super().__init__()
        self.regions = regions
        self.bn = nn.BatchNorm1d(regions + 3)
        self.fc = nn.Linear(regions + 3, actions)

    def forward(self, images: Tensor, regions: Tensor) -> Tensor:
        areas = nn.functional.one_hot(regions.long(), self.regions).float().mean((1, 2))
        return self.fc(self.bn(torch.cat([areas, images.mean((2, 3))], 1)))


class TinySARFace(SARFace):
    """SARFace with that policy."""

    def make_policy(self) -> nn.Module:
        return TinyPolicy(len(self.scheme.removable), self.scheme.count)


class SteadyContext(OneRank):
    """A context with real keyed draws."""

    def __init__(self, method: Any, head: Any, batch: Batch, seed: int = 3, batches: int = 0) -> None:
        super().__init__(method, method.networks(), head)
        self.source = Draws(seed, batches, batch.position, "method/")

    def uniform(self, stream: str, *shape: int) -> Tensor:
        return self.source.uniform(stream, *shape)

    def normal(self, stream: str, *shape: int) -> Tensor:
        return self.source.normal(stream, *shape)


def tiny(stage: type = TinySARFace, **options: Any) -> Any:
    """A method of that stage with CosFace."""
    torch.manual_seed(0)
    return stage(**{"margin": CosFace(16.0, 0.3), **NETWORK, "input": InputSpec(SIDE, SIDE, "bgr"), **options})


def head_of(method: Any, classes: int = CLASSES) -> MarginHead:
    """A head of unit class centres, in double precision."""
    return MarginHead(method.head.margin, DIM, classes, group="alone", init="unit", seed=1, dtype=torch.float64)


def batch_of(method: Any, count: int = 6, labels: Tensor | None = None) -> Batch:
    """Prepared pictures of noise with label maps of blocks of classes."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(count, 3, SIDE, SIDE, generator=generator) * 2 - 1
    if labels is None:
        coarse = torch.randint(0, 19, (count, 6, 6), generator=generator, dtype=torch.uint8)
        labels = coarse.repeat_interleave(SIDE // 6, 1).repeat_interleave(SIDE // 6, 2)
    fields = {"image": images, "label": torch.arange(count) % CLASSES, "regions": method.regions(images, {}, labels)}
    kinds = {"image": Field("image"), "label": Field("label")}
    return Batch(fields, kinds, "bgr", torch.arange(count), torch.arange(count))


def updates(method: Any, batch: Batch, ctx: Any) -> Iterator[Any]:
    """The method's Updates; each network is left as it is between them."""
    yield from method.training_step(batch, ctx)


# -- runs -------------------------------------------------------------------------------------------------------------
STAGES = {"policy": "plugins.sarface.tests.tiny_sarface.TinySARFace", "pretrain": SARFacePretrain.__name__}


def words(faces: Path, output: Path, stage: str, *more: str) -> list[str]:
    """A command line of `facex train` on rendered faces with label maps."""
    argv = [
        "--method",
        STAGES[stage],
        "--method.margin",
        "CosFace",
        "--method.margin.s",
        "16",
        "--method.margin.m",
        "0.2",
    ]
    argv += ["--method.backbone", "ir_18", "--method.embedding_size", str(DIM), "--method.parsing", "data"]
    argv += ["--method.backbone_options", "{width: 0.125, blocks: [1, 1, 1, 1], dropout: 0}"]
    argv += ["--method.input", f"{{height: {SIDE}, width: {SIDE}, color: bgr}}", "--data.path", str(faces)]
    argv += ["--trainer.output", str(output), "--trainer.global_batch", "16", "--trainer.micro_batch", "8"]
    argv += ["--trainer.steps", "6", "--trainer.precision", "fp32", "--trainer.log_every", "1"]
    argv += ["--optimizer.lr", "0.05", "--logging.tensorboard", "false"]
    if stage == "policy":
        argv += [
            "--networks",
            "{policy: {optimizer: {name: adam, lr: 0.01}}, recogniser: {every: 2, accumulate: false}}",
        ]
    return [*argv, *more]


def run(argv: list[str]) -> RunResult:
    """Train as a command line says."""
    parsed = parse(argv)
    return train(parsed.config, parsed.resolved)
