"""What both stages of SARFace share: a recogniser of faces some of whose regions are black, and where the regions come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from facex.classification import Recogniser
from facex.errors import ConfigError, DataError
from facex.heads.margins import Margin
from facex.methods import Batch, Context, Embedding, Format, Frozen, Group, InputSpec, LoadReport, Source
from facex.methods.method import Nets
from facex.ops import region_mask
from facex_sarface.formats import recognise_official, sarface_formats
from facex_sarface.groups import recogniser_groups
from facex_sarface.options import ParserConfig
from facex_sarface.parser import parse
from facex_sarface.regions import CenterPixel, RegionScheme, SchemeName, scheme_named, split, to_input_size
from facex_sarface.swiftformer import SwiftFormerParser

RECOGNISER, POLICY, PARSER = "recogniser", "policy", "parser"
FIELD = "parsing"  # label maps of the data set, CelebAMask-HQ's 19 classes
Parsing = Literal["parser", "data"]


class RegionRecogniser(Recogniser):
    """Base of both stages: a recogniser (network `recogniser`), its head, a frozen parser or label maps of the data.

    Pictures are BGR in +-1; a region that is blacked out becomes 0, the middle grey. Subclasses document the options.
    """

    def __init__(
        self,
        margin: Margin,
        backbone: str,
        embedding_size: int,
        backbone_options: dict[str, Any] | None,
        input: InputSpec | None,
        scheme: SchemeName,
        removable: Sequence[int] | None,
        center_pixel: CenterPixel,
        parsing: Parsing,
        parser: ParserConfig | None,
        init: Literal["normal", "unit", "xavier"],
        sample_rate: float,
        head_options: dict[str, Any] | None,
    ) -> None:
        super().__init__(
            margin,
            backbone,
            embedding_size,
            backbone_options,
            input or InputSpec(color="bgr"),
            init,
            sample_rate,
            norm_decay=False,
            head_options=head_options,
        )
        assert self.head is not None
        self.head.network = RECOGNISER
        chosen = scheme_named(scheme)
        self.scheme: RegionScheme = chosen if removable is None else replace(chosen, removable=tuple(removable))
        self.center_pixel, self.parsing = center_pixel, parsing
        if parsing not in ("parser", "data"):
            raise ConfigError(f"parsing is parser or data, not {parsing!r}")
        self.parser_config = ParserConfig() if parser is None and parsing == "parser" else parser
        self.parser: nn.Module | None = None
        if self.parser_config is not None:
            self.parser = self.make_parser(self.parser_config)
        self._check_input()
        if parsing == "data":
            self.needs = frozenset({"image", "label", FIELD})
        self._loaded: set[str] = set()

    def make_parser(self, config: ParserConfig) -> nn.Module:
        """The parser: pictures [B, 3, S, S] -> logits [B, classes, S, S]."""
        classes = 19 if config.table is None else len(config.table)
        try:
            return SwiftFormerParser(config.variant, classes, **config.options)
        except TypeError as error:
            raise ConfigError(f"parser.options {sorted(config.options)}: {error}") from error

    def _check_input(self) -> None:
        i = self.input
        if i.height != i.width:
            raise ConfigError(f"SARFace reads square pictures, not {i.width} x {i.height}")
        if self.parser is not None and (i.color != "bgr" or {*i.mean, *i.std} != {127.5}):
            raise ConfigError(
                "the face parser reads the recogniser's pictures, BGR in +-1: set input.color bgr, mean and std 127.5; or "
                "take label maps from the data (parsing data, no parser)"
            )

    # -- networks -----------------------------------------------------------------------------------------------------
    def networks(self) -> dict[str, nn.Module]:
        """`recogniser`."""
        return {RECOGNISER: self.backbone}

    def frozen(self) -> dict[str, Frozen]:
        """`parser`, where there is one: always in evaluation mode, without gradients, in no optimizer."""
        if self.parser is None or self.parser_config is None:
            return {}
        return {PARSER: Frozen(self.parser, saved=self.parser_config.saved)}

    def param_groups(self, network: str) -> list[Group]:
        """No decay on BatchNorm's weights and biases, on everything else of the recogniser."""
        return recogniser_groups(self.backbone)

    def train(self, mode: bool = True) -> RegionRecogniser:
        """The parser stays in evaluation mode."""
        super().train(mode)
        if self.parser is not None:
            self.parser.eval()
        return self

    def init_from(self, sources: Sequence[Source]) -> list[LoadReport]:
        """As every method; it notes which networks the files brought."""
        reports = super().init_from(sources)
        self._loaded |= {name.partition(".")[0] for report in reports for name in report.loaded}
        return reports

    def formats(self) -> list[Format]:
        """SARFace's and AdaFace's Lightning checkpoints, a bare recogniser, the parser's and the policy's own files."""
        parts = self.networks() if self.parser is None else {**self.networks(), PARSER: self.parser}
        return sarface_formats(parts, self.parser)

    # -- regions ------------------------------------------------------------------------------------------------------
    def prepare(self, batch: Batch, ctx: Context) -> Batch:
        """Network input, and field `regions`: ids uint8 [b, H, W]."""
        batch = super().prepare(batch, ctx)
        if self.parser is not None and PARSER not in self._loaded and ctx.training:
            raise ConfigError(
                "the face parser has random weights: --init_from '[{path: swiftl1_fp_128_only.pth, network: parser}]'; for a "
                "set with label maps no parser is needed: parsing data, method.parser null"
            )
        if self.parsing == "data" and FIELD not in batch:
            raise DataError("parsing data: the batch has no field `parsing` (label maps of the training pictures)")
        labels = batch[FIELD] if self.parsing == "data" else None
        return batch.with_fields(regions=self.regions(batch["image"], ctx.nets, labels))

    def regions(self, images: Tensor, nets: Nets, labels: Tensor | None = None) -> Tensor:
        """Region ids uint8 [B, H, W] at the size of `images` [B, 3, H, W]; `labels` [B, h, w] instead of the parser's.

        Raises DataError for a label that no class has, ConfigError without parser and labels.
        """
        if labels is None:
            c = self.parser_config
            if c is None or PARSER not in nets:
                raise ConfigError("there is no face parser here (parsing data): give label maps, or set method.parser")
            if not c.saved and PARSER not in self._loaded:
                raise ConfigError("this checkpoint holds no face parser (parser.saved false): embed full pictures only")
            parser: Any = nets[PARSER]
            labels = parse(parser, images, c.size, c.table, c.input)
        return to_input_size(split(labels, self.scheme, self.center_pixel), images.shape[-1])

    def mask(self, images: Tensor, regions: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Images with the regions black that `keep` [B, regions] (0 or 1) does not keep, and their kept pixels float32 [B]."""
        masked, areas = region_mask(images, regions, keep)
        return masked, (areas * keep).sum(1).float()

    # -- embeddings ---------------------------------------------------------------------------------------------------
    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """Raw embedding of the full picture; with `flip` the sum of both views' raw vectors (unit vector times length, as
        AdaFace fuses them). Quality: the length of the result."""
        vector = nets[RECOGNISER](images).float()
        if flip:
            vector = vector + nets[RECOGNISER](images.flip(3)).float()
        return Embedding(vector, vector.norm(dim=1))

    stage: ClassVar[int] = 0

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """A Lightning checkpoint of this stage."""
        facts = recognise_official(state)
        if facts is None or facts["stage"] != cls.stage:
            return None
        margin = (
            {"class_path": "AdaFace"}
            if facts["adaptive"]
            else {"class_path": "CosFace", "init_args": {"clamp_eps": 1e-4}}
        )
        found: dict[str, Any] = {
            "margin": margin,
            "backbone": facts["backbone"],
            "embedding_size": facts["embedding_size"],
        }
        if facts.get("parser_variant"):
            found["parser"] = {"variant": facts["parser_variant"]}
        return found

    def check_batch(self, batch: Batch) -> None:
        """ConfigError where BatchNorm would have a single picture to take statistics of."""
        if self.backbone.training and len(batch) < 2:
            raise ConfigError(
                "a micro-batch of one picture has no BatchNorm statistics: raise trainer.micro_batch, or train with the "
                "statistics frozen (SARFace's rec_bn frozen)"
            )


def pixels_of(images: Tensor) -> int:
    """Pixels of one picture [B, 3, H, W]."""
    return int(images.shape[-2] * images.shape[-1])


def rows(mask: Tensor) -> Tensor:
    """bool [b] as [b, 1, 1, 1], to choose among pictures."""
    return torch.reshape(mask, (-1, 1, 1, 1))
