"""A trained face parser at work: read from a run or an official file, it turns pictures into label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from facex.errors import CheckpointError, ConfigError, DataError
from facex.methods import InputSpec
from facex.methods.loading import load_network, read_state
from facex.train.load_run import load_run
from facex_sarface.formats import official_stage, split_official
from facex_sarface.masking import PARSER, RegionRecogniser
from facex_sarface.options import ParserConfig
from facex_sarface.parser import ParserInput, mean_confidence, parse
from facex_sarface.parser_shapes import parser_shape
from facex_sarface.parser_training import FaceParser
from facex_sarface.regions import nearest_index
from facex_sarface.swiftformer import SwiftFormerParser

_INPUTS: tuple[ParserInput, ...] = get_args(ParserInput)


class LoadedParser:
    """A parser and how it reads pictures, in evaluation mode.

    Args:
        module: pictures [B, 3, S, S] -> logits.
        config: size, input and label table.
        name: where it comes from, for messages.
    """

    def __init__(self, module: nn.Module, config: ParserConfig, name: str) -> None:
        self.module, self.config, self.name = module.eval(), config, name

    def to(self, device: torch.device | str) -> LoadedParser:
        """The parser moved to a device."""
        self.module.to(device)
        return self

    def labels(self, images: Tensor, color: str) -> Tensor:
        """Label maps uint8 [B, H, W] of pictures uint8 [B, H, W, 3] in `color` order ("rgb" or "bgr").

        What SARFace's own parser finds in them (`parser.parse`), brought to the pictures' size by the nearest pixel.
        """
        pictures, c = self._input(images, color), self.config
        found = parse(self.module, pictures, c.size, c.table, c.input)
        rows, columns = (nearest_index(c.size, n).to(found.device) for n in images.shape[1:3])
        return found[:, rows[:, None], columns[None, :]]

    def confidence(self, images: Tensor, color: str) -> dict[str, float]:
        """Mean probability of the strongest class, by the input that the parser is given: the higher one suits it. `images` and
        `color` as for `labels`."""
        pictures = self._input(images, color)
        return {kind: float(mean_confidence(self.module, pictures, self.config.size, kind)) for kind in _INPUTS}

    def _input(self, images: Tensor, color: str) -> Tensor:
        height, width = images.shape[1:3]
        if height != width:
            raise DataError(f"the face parser reads square pictures, these are {width}x{height}: give a size")
        device = next(self.module.parameters()).device
        return InputSpec(height, width, "bgr").to_tensor(images.to(device), color)


def load_parser(
    path: str | Path,
    size: int | None = None,
    input: str | None = None,
    table: Sequence[int] | None = None,
) -> LoadedParser:
    """The parser of a run of FaceParser or SARFace, of an official .pth, or of a SARFace checkpoint (.ckpt).

    size, input, table: see ParserConfig; unset, a run's own, for a file 128, official and none. Architectures of files are
    told by their tensors. Raises CheckpointError for what holds no parser, ConfigError for options that do not fit.
    """
    module, config = _of_run(Path(path)) if Path(path).is_dir() else _of_file(Path(path))
    given: dict[str, Any] = {"size": size, "input": input, "table": None if table is None else tuple(table)}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    classes = getattr(module, "classes", None)
    if config.table is not None and classes is not None and len(config.table) != classes:
        raise ConfigError(f"{path}: the label table has {len(config.table)} entries, the parser {classes} classes")
    return LoadedParser(module, config, str(path))


def _of_run(folder: Path) -> tuple[nn.Module, ParserConfig]:
    method = load_run(folder).method
    if isinstance(method, FaceParser):
        return method.parser, method.config
    if not isinstance(method, RegionRecogniser) or method.parser is None or method.parser_config is None:
        raise CheckpointError(f"{folder}: a run of {type(method).__name__} without a face parser")
    if not method.parser_config.saved:
        raise CheckpointError(
            f"{folder}: its face parser was not saved (parser.saved false): name the parser's own file"
        )
    return method.parser, method.parser_config


def _of_file(path: Path) -> tuple[nn.Module, ParserConfig]:
    state = read_state(path)
    if official_stage(state) is not None:
        state = split_official(state)["networks"].get(PARSER, {})
    shape = parser_shape(state)
    if shape is None:
        raise CheckpointError(
            f"{path}: no face parser: neither a run's folder, nor a .pth with the names encoder.* and decoder.*, nor a "
            "SARFace checkpoint"
        )
    module = SwiftFormerParser("xs", **shape)
    load_network(module, state, str(path), PARSER)
    return module, ParserConfig()
