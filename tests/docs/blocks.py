"""Fenced blocks of a page: files to write (first line `# file: PATH`) and console lines to run (`$ COMMAND`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block. `file` is None for a console block."""

    language: str
    text: str
    file: str | None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a Markdown page, in order."""
    found = []
    for language, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        first = text.split("\n", 1)[0]
        name = first.removeprefix("# file: ") if first.startswith("# file: ") else None
        found.append(Block(language, text, name))
    return found


def commands(block: Block) -> list[str]:
    """The commands of a console block."""
    return [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
