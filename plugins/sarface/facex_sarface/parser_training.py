"""Training the face parser: cross-entropy over the 19 classes of CelebAMask-HQ, pixel by pixel.

SARFace publishes its parser's weights alone; how it is trained here is ours: `facex sarface-parser` and the recipes
`configs/sarface/parser_*.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facex.errors import ConfigError, DataError
from facex.methods import Batch, Context, Embedding, Format, InputSpec, Method, Update, Visuals
from facex.methods.method import Nets
from facex_sarface.formats import sarface_formats
from facex_sarface.masking import FIELD, PARSER
from facex_sarface.options import ParserConfig
from facex_sarface.parser import IMAGENET_MEAN, IMAGENET_STD, PARSER_SIZE, ParserInput, resized
from facex_sarface.parser_pictures import colored
from facex_sarface.parser_shapes import parser_options
from facex_sarface.pictures import to_pictures
from facex_sarface.regions import LABELS
from facex_sarface.swiftformer import SwiftFormerParser, Variant

IGNORE = 255  # label of pixels that nobody named: they neither cost nor count
SHOWN = 8


class FaceParser(Method):
    """A face parser learns from label maps, the data set's field `parsing`; one Update a step, no classifier.

    Labels are CelebAMask-HQ's 0..18, 255 where a pixel is not labelled. The network is called `parser`, as SARFace's
    frozen one, which takes it from the run: `init_from: [{path: RUN, network: parser}]`, with the same variant, size,
    input and options.

    Args:
        variant: of SwiftFormerParser: l1 as published, l1_tiny and xs for CPUs, s, l3.
        size: side of the pictures that the parser reads, a multiple of 32; published: 128.
        parser_input: official: BGR in +-1, as SARFace's recogniser reads it; rgb_imagenet: RGB under ImageNet's mean and
            deviation.
        options: further arguments of SwiftFormerParser (widths, depths, decoder_depths, mlp_ratio).
    """

    needs = frozenset({"image", FIELD})

    def __init__(
        self,
        variant: Variant = "l1",
        size: int = PARSER_SIZE,
        parser_input: ParserInput = "official",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = ParserConfig(variant, size, parser_input, options=dict(options or {}))
        self.input = input_spec(size, parser_input)
        try:
            self.parser = SwiftFormerParser(variant, len(LABELS), **self.config.options)
        except TypeError as error:
            raise ConfigError(f"method.options {sorted(self.config.options)}: {error}") from error
        self._shown: tuple[Tensor, Tensor, Tensor] | None = None

    def networks(self) -> dict[str, nn.Module]:
        """`parser`."""
        return {PARSER: self.parser}

    def prepare(self, batch: Batch, ctx: Context) -> Batch:
        """Pictures as the parser reads them, and their label maps at that size.

        Raises DataError for a label that is none of the 19 and not 255, naming the sample.
        """
        check_maps(batch[FIELD], batch.index)
        image = self.to_input(batch["image"], batch.color)
        maps = functional.interpolate(batch[FIELD][:, None], image.shape[-2:], mode="nearest-exact")[:, 0]
        return batch.with_fields(image=image, **{FIELD: maps})

    def to_input(self, images: Tensor, color: str) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, 3, size, size], resized as `parser.parse` does (not antialiased)."""
        own = replace(self.input, height=images.shape[1], width=images.shape[2])
        return resized(own.to_tensor(images, color), self.config.size)

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """The mean over the labelled pixels of all ranks."""
        if self.parser.training and len(batch) < 2:
            raise ConfigError("a micro-batch of one picture has no BatchNorm statistics: raise trainer.micro_batch")
        logits, labels = ctx.nets[PARSER](batch["image"]).float(), batch[FIELD].long()
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        known, found = labels != IGNORE, logits.detach().argmax(1)
        right = ctx.mean((found == labels).float().flatten(), known.flatten())
        self._shown = (batch["image"][:SHOWN], labels[:SHOWN], found[:SHOWN])
        yield Update(PARSER, {"ce": ctx.mean(loss.flatten(), known.flatten())}, logs={"accuracy": right})

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """Shares of the picture that the classes take [B, 19]; maps: `parsing` uint8 [B, size, size]. With `flip` of both
        views' mean probabilities, left and right exchanged back."""
        scores = nets[PARSER](images).float()
        if flip:
            mirrored = nets[PARSER](images.flip(3)).float().softmax(1).flip(3)
            scores = scores.softmax(1) + mirrored[:, MIRRORED]
        found = scores.argmax(1)
        shares = functional.one_hot(found.flatten(1), len(LABELS)).float().mean(1)
        return Embedding(shares, maps={FIELD: found.to(torch.uint8)})

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Pictures of the last micro-batch, what they show, and what the parser found, side by side."""
        if self._shown is None:
            return Visuals()
        images, labels, found = self._shown
        faces = to_pictures(images, self.input)
        return Visuals({"parsing": torch.cat([faces, colored(labels), colored(found)], 2)})

    def inference_module(self, **mode: Any) -> nn.Module:
        """Normalised pictures [B, 3, size, size] -> logits [B, 19, size, size]."""
        if mode:
            raise ConfigError(f"FaceParser has no inference options, not {sorted(mode)}")
        return self.parser

    def formats(self) -> list[Format]:
        """The parser's own .pth, which is written, and SARFace's Lightning checkpoints, whose parser is read."""
        return sorted(sarface_formats(self.networks()), key=lambda f: f.name != "sarface-parser")

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """The parser's own .pth, of any widths and depths."""
        return parser_options(state)


# the class that each class is called in the mirrored picture: left and right eye, brow, ear exchange
MIRRORED = [0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, len(LABELS))]


def input_spec(size: int, parser_input: ParserInput) -> InputSpec:
    """What a parser reads, as an InputSpec."""
    if parser_input == "official":
        return InputSpec(size, size, "bgr")
    mean, std = ([255 * v for v in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return InputSpec(size, size, "rgb", (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def check_maps(maps: Tensor, index: Tensor) -> None:
    """Raise DataError for labels that are neither CelebAMask-HQ's nor 255. maps uint8 [B, H, W], index [B]."""
    wrong = (maps >= len(LABELS)) & (maps != IGNORE)
    if bool(wrong.any()):
        row = int(wrong.flatten(1).any(1).nonzero()[0])
        values = maps[row][wrong[row]].unique().tolist()
        raise DataError(
            f"sample {int(index[row])}: its label map holds the classes {values[:8]}; known are 0..{len(LABELS) - 1} "
            f"(CelebAMask-HQ's) and {IGNORE} for pixels without label"
        )
