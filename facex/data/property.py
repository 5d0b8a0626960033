"""The `property` file beside a training set: one line `classes,height,width`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from facex.errors import RecordError
from facex.files import write_text


@dataclass(frozen=True)
class Property:
    """Number of classes and size of every image, in pixels."""

    classes: int
    height: int
    width: int


def read_property(path: str | os.PathLike[str]) -> Property:
    """Read line 1; blanks and CRLF are allowed, further lines (rec2shufrec writes some) are ignored.

    Raises RecordError when the line is not three positive whole numbers.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(200).decode("utf-8", "replace").strip()
    except OSError as error:
        raise RecordError(f"{path}: bad property file: cannot read it: {error.strerror}") from error
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 3 or not all(re.fullmatch(r"[0-9]{1,10}", field) for field in fields):
        raise RecordError(f"{path}: bad property file: line 1 is {line[:60]!r}, expected 'classes,height,width'")
    classes, height, width = map(int, fields)
    if classes < 1 or not 1 <= height <= 65500 or not 1 <= width <= 65500:
        raise RecordError(f"{path}: bad property file: {classes} classes, {height}x{width} pixels cannot be")
    return Property(classes, height, width)


def write_property(path: str | os.PathLike[str], value: Property, images: int | None = None) -> None:
    """Write the file as insightface does: no blanks, one LF. `images`: their number on a second line, as some converters
    add."""
    second = "" if images is None else f"{images}\n"
    write_text(Path(path), f"{value.classes},{value.height},{value.width}\n{second}")
