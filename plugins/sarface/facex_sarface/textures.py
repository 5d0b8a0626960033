"""Distracting textures: regions of a picture are painted with one of many patterns, which may stand for an identity.

Nothing like it is published. It makes faces of which one knows what a policy over regions has to find out: a background that
tells something about the training pictures and misleads elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.data.transforms import Transform
from facex.errors import ConfigError, DataError
from facex.methods import Batch
from facex_sarface.masking import FIELD
from facex_sarface.regions import BACKGROUND, LABELS

_PATTERNS = 3  # stripes, checks, dots
_SLOWEST, _FASTEST = 2.0, 7.0  # waves across the picture
_SHARPNESS = 6.0


class PaintTextures(Transform):
    """Paint the pixels of some labels with a texture out of a pool, in part of the pictures.

    A share `own` of the painted pictures wears the texture of its own identity (that of number label mod `textures`), the
    others that of another one, drawn uniformly. So the texture is a hint at the identity in `own` of the pictures and
    names somebody else in the rest. Where in its waves a texture begins is drawn for every picture.

    Args:
        p: share of the pictures that are painted.
        own: share of these whose texture is that of their identity; 0 needs no labels.
        textures: number of textures in the pool.
        labels: the labels that are painted (CelebAMask-HQ's numbers; 0 is the background).
        field: the label maps by which it is painted.
    """

    def __init__(
        self,
        p: float = 1.0,
        own: float = 0.0,
        textures: int = 400,
        labels: Sequence[int] = (BACKGROUND,),
        field: str = FIELD,
    ) -> None:
        if not 0 <= p <= 1 or not 0 <= own <= 1:
            raise ConfigError(f"PaintTextures: p={p} and own={own} are shares between 0 and 1")
        if textures < 2 or not labels or not all(0 <= label < len(LABELS) for label in labels):
            raise ConfigError(
                f"PaintTextures: textures={textures} must be 2 at least, labels={list(labels)} some of 0..{len(LABELS) - 1}"
            )
        self.p, self.own, self.textures, self.labels, self.field = p, own, textures, tuple(labels), field

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Paint; raises ConfigError where a field is missing."""
        missing = [name for name in (self.field, *(["label"] if self.own else [])) if name not in batch]
        if missing:
            raise ConfigError(f"PaintTextures reads the field {missing[0]!r}, which the batch has not (data.fields)")
        coins = draws.uniform("coins", 2)
        number = draws.integers("texture", 0, self.textures)
        if self.own:
            mine = batch["label"] % self.textures
            other = (mine + 1 + draws.integers("other", 0, self.textures - 1)) % self.textures
            number = torch.where(coins[:, 1] < self.own, mine, other)
        painted = paint(batch["image"], batch[self.field], number, draws.uniform("phase", 2), self.labels, batch.color)
        chosen = (coins[:, 0] < self.p).view(-1, 1, 1, 1)
        return batch.with_fields(image=torch.where(chosen, painted, batch["image"]))


def paint(
    images: Tensor,
    maps: Tensor,
    number: Tensor,
    phase: Tensor,
    labels: Sequence[int] = (BACKGROUND,),
    color: str = "rgb",
) -> Tensor:
    """Pictures uint8 [B, H, W, 3] in `color` order, the pixels of `labels` in maps [B, H, W] painted with texture `number` [B].

    `phase` [B, 2] in [0, 1): where in their waves the textures begin. Raises DataError for maps of another size.
    """
    if maps.shape != images.shape[:3]:
        raise DataError(f"label maps {list(maps.shape)} for pictures {list(images.shape)}: they must have one size")
    where = torch.isin(maps, torch.tensor(labels, dtype=maps.dtype, device=maps.device))
    made = texture(number, images.shape[1], images.shape[2], phase)
    return torch.where(where[..., None], made if color == "rgb" else made.flip(3), images)


def texture(number: Tensor, height: int, width: int, phase: Tensor) -> Tensor:
    """Textures uint8 [B, height, width, 3] RGB: two colours in stripes, checks or dots, all told by their `number` [B].

    Lengths are shares of the picture: another size is the same texture.
    """
    source = Draws(0, 0, number, "texture/")
    first, second = (255 * source.uniform("colors", 6)).view(-1, 2, 1, 1, 3).unbind(1)
    kind = source.integers("pattern", 0, _PATTERNS).view(-1, 1, 1)
    turn, pace = source.uniform("waves", 2).unbind(1)
    angle, pace = math.pi * turn, _SLOWEST + (_FASTEST - _SLOWEST) * pace
    along = (2 * math.pi * pace * angle.cos()).view(-1, 1, 1), (2 * math.pi * pace * angle.sin()).view(-1, 1, 1)
    y = ((torch.arange(height, device=number.device) + 0.5) / height).view(1, -1, 1)
    x = ((torch.arange(width, device=number.device) + 0.5) / width).view(1, 1, -1)
    start = (2 * math.pi * phase).view(-1, 2, 1, 1).unbind(1)
    one, two = (along[0] * x + along[1] * y + start[0]).sin(), (along[0] * y - along[1] * x + start[1]).sin()
    wave = torch.where(kind == 0, one, torch.where(kind == 1, one * two, one + two - 1))
    share = torch.sigmoid(_SHARPNESS * wave)[..., None]
    return (first * share + second * (1 - share)).round().to(torch.uint8)
