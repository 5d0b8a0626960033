"""The progress bar of the parser's commands."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Rate(TextColumn):
    """Pictures a second so far."""

    def render(self, task: Task) -> Text:
        """As text."""
        return Text(f"{task.finished_speed or task.speed or 0:.0f} pictures/s")


def progress_bar(what: str) -> Progress:
    """A bar on stderr with pictures done, their rate and the time that is left."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
