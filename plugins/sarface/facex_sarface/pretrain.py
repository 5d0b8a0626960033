"""SARFace's first stage: the recogniser learns faces of which random regions are black."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads.margins import Margin
from facex.methods import Batch, Context, InputSpec, Update, Visuals
from facex_sarface.masking import RECOGNISER, Parsing, RegionRecogniser, rows
from facex_sarface.options import ParserConfig
from facex_sarface.pictures import to_pictures
from facex_sarface.regions import CenterPixel, SchemeName

SHOWN = 8


class SARFacePretrain(RegionRecogniser):
    """Random region dropping: each region of each picture is black with a probability, and some batches are left whole.

    Args:
        margin: the head's margin; published: CosFace with m 0.4 and clamp_eps 1e-4.
        backbone: an AdaFace network, ir_18 ... ir_101, ir_se_50.
        embedding_size: length of the embedding.
        backbone_options: further arguments of the backbone.
        input: what the network reads; published: BGR, +-1, 112 x 112.
        scheme: how the parser's labels become regions: sar24; legacy23, which the published first stage has room for;
            raw19, the labels themselves.
        removable: ids of the regions that `drop_only_removable` lets go; unset: the scheme's.
        center_pixel: official: the pixel that the four-way cuts leave over keeps its raw label's number as region; fixed:
            it belongs to the bottom right.
        parsing: parser: label maps come from the frozen parser. data: from the set's field `parsing`.
        parser: the parser; unset: SwiftFormer-L1, or none with parsing data.
        drop_probability: of each region of each picture.
        clean_probability: of leaving everything as it is.
        clean_per: batch: one coin for a micro-batch (published: one per batch and GPU); image: one for each picture.
        drop_only_removable: only regions that the second stage's policy decides about are dropped (published: any).
        init: class centres at the start: unit (published), normal, xavier.
        sample_rate: share of the classes that take part at a step (Partial FC).
        head_options: further options of MarginHead by name.
    """

    stage = 1

    def __init__(
        self,
        margin: Margin,
        backbone: str = "ir_50",
        embedding_size: int = 512,
        backbone_options: dict[str, Any] | None = None,
        input: InputSpec | None = None,
        scheme: SchemeName = "sar24",
        removable: Sequence[int] | None = None,
        center_pixel: CenterPixel = "official",
        parsing: Parsing = "parser",
        parser: ParserConfig | None = None,
        drop_probability: float = 0.5,
        clean_probability: float = 0.5,
        clean_per: Literal["batch", "image"] = "batch",
        drop_only_removable: bool = False,
        init: Literal["normal", "unit", "xavier"] = "unit",
        sample_rate: float = 1.0,
        head_options: dict[str, Any] | None = None,
    ) -> None:
        network = (margin, backbone, embedding_size, backbone_options, input)
        regions = (scheme, removable, center_pixel, parsing, parser)
        super().__init__(*network, *regions, init, sample_rate, head_options)
        if not 0 <= drop_probability <= 1 or not 0 <= clean_probability <= 1:
            raise ConfigError("drop_probability and clean_probability lie between 0 and 1")
        if clean_per not in ("batch", "image"):
            raise ConfigError(f"clean_per is batch or image, not {clean_per!r}")
        self.drop_probability, self.clean_probability = drop_probability, clean_probability
        self.clean_per, self.drop_only_removable = clean_per, drop_only_removable
        self._shown: tuple[Tensor, Tensor] | None = None

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """Embed the masked pictures, and leave the loss to the head."""
        self.check_batch(batch)
        keep = self.keep(batch, ctx)
        with torch.no_grad():
            masked, area = self.mask(batch["image"], batch["regions"], keep)
        self._shown = (batch["image"][:SHOWN], masked[:SHOWN])
        embeddings = ctx.nets[RECOGNISER](masked)
        logs = {"area": area.mean(), "kept_regions": keep.sum(1).mean()}
        yield Update(RECOGNISER, embeddings=embeddings, labels=batch["label"], logs=logs)

    @torch.no_grad()
    def keep(self, batch: Batch, ctx: Context) -> Tensor:
        """What stays of each picture, 0 or 1, float32 [b, regions]."""
        keep = (ctx.uniform("drop", self.scheme.count) >= self.drop_probability).float()
        if self.drop_only_removable:
            keep[:, list(self.scheme.kept)] = 1.0
        coin = ctx.uniform("clean")
        if self.clean_per == "batch":
            coin = coin.index_select(0, batch.position.argmin().view(1))
        return torch.where(rows(coin < self.clean_probability)[:, :, 0, 0], torch.ones_like(keep), keep)

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Pictures of the last micro-batch, whole and masked."""
        if self._shown is None:
            return Visuals()
        return Visuals({"masked": torch.cat([to_pictures(x, self.input) for x in self._shown], 2)})
