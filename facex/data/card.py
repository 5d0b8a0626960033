"""`facex.json`, the card beside a data set: what `property` cannot say (channel order, companion fields, swaps)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from facex.errors import DataError
from facex.files import write_json
from facex.methods.batch import Field, FieldKind

CARD = "facex.json"


@dataclass(frozen=True)
class Card:
    """`color`: channel order in which the pictures were packed ("bgr" = swapped). `size`: (height, width).

    `fields`: companion fields by name, with the pairs that a horizontal flip exchanges. None = the card does not say.
    """

    color: str = "rgb"
    size: tuple[int, int] | None = None
    classes: int | None = None
    images: int | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)


def read_card(folder: str | os.PathLike[str]) -> Card | None:
    """The card of a folder, None where there is none. Raises DataError naming the file and the entry that is wrong."""
    path = Path(folder) / CARD
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fields = {name: _field(name, value) for name, value in content.get("fields", {}).items()}
        size = tuple(int(v) for v in content["size"]) if content.get("size") is not None else None
        card = Card(content.get("color", "rgb"), size, content.get("classes"), content.get("images"), fields)  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not a facex data card: {error}") from error
    _check(path, card)
    return card


def _field(name: str, value: Mapping[str, Any]) -> Field:
    if value["kind"] not in get_args(FieldKind):
        raise ValueError(f"field {name!r} has the unknown kind {value['kind']!r}")
    return Field(value["kind"], tuple((int(a), int(b)) for a, b in value.get("swaps", [])))


def _check(path: Path, card: Card) -> None:
    if card.color not in ("rgb", "bgr"):
        raise DataError(f"{path}: color is {card.color!r}, expected 'rgb' or 'bgr'")
    if card.size is not None and (len(card.size) != 2 or not all(0 < v <= 65500 for v in card.size)):
        raise DataError(f"{path}: size is {list(card.size)}, expected [height, width]")
    for name, value in (("classes", card.classes), ("images", card.images)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise DataError(f"{path}: {name} is {value!r}, expected a positive whole number")


def write_card(folder: str | os.PathLike[str], card: Card) -> None:
    """Write the card, all of it or nothing."""
    fields = {name: {"kind": f.kind, "swaps": [list(pair) for pair in f.swaps]} for name, f in card.fields.items()}
    content = {"color": card.color, "size": card.size, "classes": card.classes, "images": card.images, "fields": fields}
    write_json(Path(folder) / CARD, content)
