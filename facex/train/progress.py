"""What a person sees of a run: a progress bar (or plain lines where there is no terminal), tables, and where time
goes."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

import torch


def format_table(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows of words as aligned text, the first row a header with a line under it; numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numeric = [len(rows) > 1 and all(_is_number(row[i]) for row in rows[1:]) for i in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        cells = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        return (indent + "  ".join(cells)).rstrip()

    rule = indent + "  ".join("-" * w for w in widths)
    return "\n".join([line(rows[0]), rule, *(line(row) for row in rows[1:])])


def _is_number(word: str) -> bool:
    first = word.replace(",", "").replace("%", "").split(" ")[0]
    try:
        float(first)
    except ValueError:
        return word in ("", "-")
    return True


def duration(seconds: float) -> str:
    """A time in words: 42s, 3m05s, 2h07m, 3d04h."""
    whole = max(round(seconds), 0)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller:02d}{name}"
    return f"{whole}s"


class Speed:
    """Images per second over the last minute or so, and over the run; time inside `pause()` (evaluation, checkpoints)
    is not counted."""

    def __init__(self, images_per_batch: int, window: int = 50) -> None:
        self.images_per_batch = images_per_batch
        self._marks: deque[float] = deque(maxlen=window + 1)
        self._paused = 0.0
        self._begin: float | None = None
        self._batches = 0

    def _now(self) -> float:
        return time.perf_counter() - self._paused

    def start(self) -> None:
        """The clock runs from here."""
        self._begin = self._now()
        self._marks.append(self._begin)

    def batch_done(self) -> None:
        """A global batch is done."""
        if self._begin is None:
            self.start()
            return
        self._batches += 1
        self._marks.append(self._now())

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time in this block is not training."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - began

    def recent(self) -> float:
        """Images per second over the last batches; 0 before the second."""
        if len(self._marks) < 2 or self._marks[-1] <= self._marks[0]:
            return 0.0
        return self.images_per_batch * (len(self._marks) - 1) / (self._marks[-1] - self._marks[0])

    def overall(self) -> float:
        """Images per second since the start."""
        if not self._batches or self._begin is None or self._marks[-1] <= self._begin:
            return 0.0
        return self.images_per_batch * self._batches / (self._marks[-1] - self._begin)


class Progress:
    """The progress of a run on rank 0: a bar on a terminal, a line every `seconds` elsewhere; silent on other ranks.

    `total` and `done` count global batches. Call `update` after each; `print` writes above the bar.
    """

    def __init__(
        self,
        total: int,
        images_per_batch: int,
        done: int = 0,
        rank: int = 0,
        seconds: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.done = total, done
        self.speed = Speed(images_per_batch)
        self.stream = stream or sys.stdout
        self.active = rank == 0
        self.seconds = seconds
        self._last_line = time.monotonic()
        self._text = ""
        self._bar = None
        if self.active and self.stream.isatty():
            self._bar = self._make_bar()
        self.speed.start()

    def _make_bar(self):  # type: ignore[no-untyped-def]  # rich is imported only where a terminal is
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.completed}/{task.total}"),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.description}"),
        )
        bar = progress.Progress(*columns, console=Console(file=self.stream), refresh_per_second=4, expand=True)
        self._task = bar.add_task("", total=self.total, completed=self.done)
        bar.start()
        return bar

    def update(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """Note that `done` global batches are done; `values` (loss, lr) are shown until the next ones come."""
        self.speed.batch_done()
        self.done = done
        if not self.active:
            return
        if values:
            self._text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=self.status())
        elif time.monotonic() - self._last_line >= self.seconds or done == self.total:
            self._last_line = time.monotonic()
            self._write(f"step {done}/{self.total}  {self.status()}")

    def status(self) -> str:
        """Values, images/s and the time that is left."""
        rate = self.speed.recent()
        left = (self.total - self.done) * self.speed.images_per_batch / rate if rate else 0.0
        pace = f"{rate:,.0f} images/s  ETA {duration(left)}" if rate else "starting"
        return f"{self._text}  {pace}" if self._text else pace

    def print(self, text: str) -> None:
        """Write a line (or several) above the bar, on rank 0."""
        if not self.active:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._write(text)

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Take the bar down; may be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class StepTimer:
    """Seconds spent in the parts of a step (data, forward, head, backward, optimizer), summed over its micro-batches.

    On a GPU the parts are timed with CUDA events, read only by `take`, so that nothing waits in between: `data` is then
    how long the GPU stood idle for data.
    """

    def __init__(self, device: torch.device | str = "cpu", enabled: bool = True) -> None:
        self.enabled = enabled
        self._cuda = torch.device(device).type == "cuda"
        self.total: dict[str, float] = {}  # all that was taken so far
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def span(self, part: str) -> Iterator[None]:
        """Time this block as `part`."""
        if not self.enabled:
            yield
        elif self._cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((part, begin, end))
        else:
            began = time.perf_counter()
            yield
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - began

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call; waits for the GPU."""
        if self._events:
            torch.cuda.synchronize()
        for part, begin, end in self._events:
            self._seconds[part] = self._seconds.get(part, 0.0) + begin.elapsed_time(end) / 1000
        taken, self._seconds, self._events = self._seconds, {}, []
        for part, value in taken.items():
            self.total[part] = self.total.get(part, 0.0) + value
        return taken


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Each part's share of the sum, 0..1."""
    total = sum(seconds.values()) or 1.0
    return {part: value / total for part, value in seconds.items()}
