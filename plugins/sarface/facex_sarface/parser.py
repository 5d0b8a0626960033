"""The road from the recogniser's input to label maps: resize, parse, take the strongest class.

SARFace gives its parser the recogniser's tensor as it is, in BGR and (v / 255 - 0.5) / 0.5 (`official`), although the parser
was trained on RGB pictures under ImageNet's mean and deviation (`rgb_imagenet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from facex.errors import ConfigError
from facex_sarface.regions import LABELS

ParserInput = Literal["official", "rgb_imagenet"]
PARSER_SIZE = 128
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def parse(
    parser: nn.Module,
    images: Tensor,
    size: int = PARSER_SIZE,
    table: Sequence[int] | None = None,
    parser_input: ParserInput = "official",
) -> Tensor:
    """Label maps uint8 [B, size, size] of pictures float32 [B, 3, H, W] in BGR, +-1.

    `table`: for a parser with other classes, the CelebAMask-HQ label (0..18) of each of its classes. The parser's mode is the
    caller's to set; no graph is kept.
    """
    found = class_logits(parser, images, size, parser_input).argmax(1)
    if table is None:
        return found.to(torch.uint8)
    return label_table(table).to(found.device)[found]


@torch.no_grad()
def mean_confidence(
    parser: nn.Module, images: Tensor, size: int = PARSER_SIZE, parser_input: ParserInput = "official"
) -> Tensor:
    """Mean over pixels and pictures of the strongest class's probability (a scalar): says which input suits a parser."""
    return class_logits(parser, images, size, parser_input).float().softmax(1).amax(1).mean()


def class_logits(parser: nn.Module, images: Tensor, size: int, parser_input: ParserInput) -> Tensor:
    """Logits [B, classes, size, size] of pictures [B, 3, H, W] in BGR, +-1, resized bilinearly (not antialiased)."""
    if parser_input not in ("official", "rgb_imagenet"):
        raise ConfigError(f"parser_input is {parser_input!r}; it must be official or rgb_imagenet")
    if parser_input == "rgb_imagenet":
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        images = (images.flip(1) * 0.5 + 0.5 - mean) / std
    logits: Tensor = parser(resized(images, size))
    return logits


def resized(images: Tensor, size: int) -> Tensor:
    """[B, 3, H, W] -> [B, 3, size, size], bilinearly, not antialiased."""
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)


def label_table(table: Sequence[int]) -> Tensor:
    """uint8 [classes]: the label of each class; raises ConfigError for one that is none of CelebAMask-HQ's."""
    wrong = [label for label in table if not 0 <= label < len(LABELS)]
    if wrong or not table:
        raise ConfigError(f"label table: {wrong or 'it is empty'}; labels are 0..{len(LABELS) - 1} (CelebAMask-HQ's)")
    return torch.tensor(list(table), dtype=torch.uint8)
