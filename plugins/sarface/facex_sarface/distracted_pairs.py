"""Verification pairs whose backgrounds mislead: two people before one texture, one person before two.

The label maps by which textures are painted are the renderer's own where the set was rendered (each picture is rendered
again), or those of a face parser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.data.imageio import encode_png
from facex.data.verification import VerificationSet
from facex.errors import DataError
from facex.synth import Renderer
from facex.synth.dataset import STAMP
from facex.synth.pairs import make_pairs
from facex_sarface.parser_loading import LoadedParser
from facex_sarface.regions import BACKGROUND
from facex_sarface.textures import paint

LabelMaps = Callable[[int, np.ndarray], np.ndarray]
"""Label maps uint8 [m, H, W] of the entries from a number on, and their pictures uint8 [m, H, W, 3] RGB."""
_STEP = 64  # pictures at a time


def distract(
    one: VerificationSet,
    maps: LabelMaps,
    name: str,
    textures: int = 400,
    labels: Sequence[int] = (BACKGROUND,),
    seed: int = 0,
) -> VerificationSet:
    """The pairs of `one`, the pixels of `labels` painted: both pictures of an impostor pair with one texture, those of a
    genuine pair with two different ones, drawn uniformly from the pool of `PaintTextures`. Pictures become PNG.

    What a pair gets depends on (seed, its number) alone. Raises VerificationSetError for pictures that do not decode.
    """
    number, phase = texture_numbers(one.issame, textures, seed)
    entries: list[bytes] = []
    for start in range(0, len(one.entries), _STEP):
        images = one.decode("rgb", size=None, start=start, stop=start + _STEP)
        found, place = maps(start, images), slice(start, start + len(images))
        made = paint(torch.from_numpy(images), torch.from_numpy(found), number[place], phase[place], labels)
        entries += [encode_png(picture) for picture in made.numpy()]
    return replace(one, entries=entries, name=name, path=None)


def texture_numbers(issame: np.ndarray, textures: int, seed: int) -> tuple[Tensor, Tensor]:
    """Texture number int64 [2n] and phase [2n, 2] of the pictures of pairs with labels bool [n]."""
    pairs = torch.arange(len(issame))
    draws = Draws(seed, 0, pairs, "distracted/")
    first = draws.integers("texture", 0, textures)
    other = (first + 1 + draws.integers("other", 0, textures - 1)) % textures
    second = torch.where(torch.from_numpy(np.asarray(issame, bool)), other, first)
    return torch.stack([first, second], 1).flatten(), draws.uniform("phase", 2, 2).flatten(0, 1)


class RenderedMaps:
    """Label maps of a set that `facex synth` wrote as val.bin: every picture is rendered again."""

    def __init__(self, one: VerificationSet) -> None:
        """Raises DataError where `one` is no rendered set."""
        stamp = None if one.path is None else one.path.parent / STAMP
        if stamp is None or not stamp.is_file():
            raise DataError(f"{one.path or one.name} was not rendered by facex synth: name a face parser (--parser)")
        try:
            options = json.loads(stamp.read_text(encoding="utf-8"))["options"]
            pairs = make_pairs(options["seed"], options["pairs"], options["val_identities"])
            self.renderer = Renderer(options["seed"], options["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{stamp}: not the stamp of a rendered set: {error!r}") from error
        self.one, self.pictures = one, [picture for pair in pairs for picture in (pair.first, pair.second)]

    def __call__(self, start: int, images: np.ndarray) -> np.ndarray:
        """Raises DataError for a picture that is not what the renderer makes."""
        found = []
        for entry in range(start, start + len(images)):
            face = self.renderer.render(*self.pictures[entry]) if entry < len(self.pictures) else None
            if face is None or face.jpeg() != self.one.entries[entry]:
                raise DataError(
                    f"{self.one.path}: picture {entry} is not the one that facex synth renders now (another set, or another "
                    "version): render the set again, or name a face parser (--parser)"
                )
            found.append(face.parsing)
        return np.stack(found)


class ParsedMaps:
    """Label maps as a face parser finds them."""

    def __init__(self, parser: LoadedParser) -> None:
        self.parser = parser

    def __call__(self, start: int, images: np.ndarray) -> np.ndarray:
        """Raises DataError for pictures that are not square."""
        return self.parser.labels(torch.from_numpy(images), "rgb").cpu().numpy()


def label_maps(one: VerificationSet, parser: str | Path | None, device: torch.device) -> LabelMaps:
    """Those of the parser in a run or file `parser`; unset: the renderer's."""
    if parser is None:
        return RenderedMaps(one)
    from facex_sarface.parser_loading import load_parser

    return ParsedMaps(load_parser(parser).to(device))
