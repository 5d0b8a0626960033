"""The faces of IJB to embeddings: read and aligned ahead by threads, shared among the ranks, each view once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch

from facex.data.occluders import Occluder
from facex.errors import FacexError
from facex.eval.ijb_faces import SIZE, Load
from facex.eval.occlusion_input import KeyedGenerators, OccludedView
from facex.eval.ranks import Share, raise_everywhere
from facex.inference.embed import embed_batch, evaluation_mode
from facex.methods import Method
from facex.methods.method import Nets

View = Literal["fused", "plain", "mirrored"]
Span = tuple[int, int]
_CHECKS = 64  # batches after which the ranks ask each other for errors


class Progress:
    """Says on standard error how far a pass over `total` faces is, at most every `every` seconds."""

    def __init__(self, what: str, total: int, every: float = 10.0) -> None:
        self.what, self.total, self.every = what, total, every
        self.start = self.said = time.monotonic()

    def __call__(self, done: int) -> None:
        """`done` faces, of all ranks, are embedded."""
        now = time.monotonic()
        if now - self.said < self.every or not done:
            return
        self.said = now
        rate = done / (now - self.start)
        left = int((self.total - done) / rate)
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        print(
            f"{self.what}: {done} of {self.total} faces, {rate:.0f} images/s, {clock} left", file=sys.stderr, flush=True
        )


def embed_views(
    method: Method,
    nets: Nets,
    load: Load,
    count: int,
    views: Iterable[View],
    *,
    occluder: Occluder | None = None,
    repeat: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[View, np.ndarray]:
    """Raw embeddings of `count` faces, float32 [count, D] by view, on every rank.

    "fused" is the face with its mirror image as the method fuses them, "plain" and "mirrored" are one of them alone.
    `occluder` is drawn on the face before it is mirrored, as in MSML's official script, from `seed`, `repeat` and the
    number of the face. With torch.distributed every rank must call it and takes its share; an error of one is raised on
    all, at the latest some batches later.
    """
    share, wanted = Share.of(count), list(dict.fromkeys(views))
    spans = [_span(share, offset, batch_size) for offset in range(0, share.size, batch_size)]
    occlude = None if occluder is None else _Occlude(occluder, seed, repeat)
    parts: dict[View, list[torch.Tensor]] = {view: [] for view in wanted}
    error: FacexError | None = None
    with evaluation_mode(method, nets):
        for number, ((start, stop), found) in enumerate(zip(spans, read_ahead(load, spans, threads), strict=True), 1):
            if isinstance(found, FacexError):
                if share.world == 1:
                    raise found
                error = error or found
            images = found if isinstance(found, np.ndarray) and len(found) else np.zeros((1, SIZE, SIZE, 3), np.uint8)
            shown = images if occlude is None else occlude(images, start)
            for view in wanted:
                parts[view].append(_embed(method, nets, shown, view, device)[: stop - start])
            if number % _CHECKS == 0:
                raise_everywhere(error, share.world)
            if progress is not None:
                progress(min((stop - share.first) * share.world, count))
    raise_everywhere(error, share.world)
    return {view: share.gather(torch.cat(rows), device).numpy() for view, rows in parts.items()}


def read_ahead(load: Load, spans: Sequence[Span], threads: int) -> Iterator[np.ndarray | FacexError]:
    """Faces uint8 [n, 112, 112, 3] of each span, or why they could not be read, in order: `threads` threads read a span
    while the one before is used."""
    pool = ThreadPoolExecutor(max(threads, 1))
    try:
        ahead: list[list[Future[np.ndarray]]] = []
        for span in [*spans, None]:
            now = ahead.pop() if ahead else None
            if span is not None:
                ahead.append([pool.submit(load, entry) for entry in range(*span)])
            if now is not None:
                yield _taken(now)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(faces: Sequence[Future[np.ndarray]]) -> np.ndarray | FacexError:
    try:
        return np.stack([face.result() for face in faces]) if faces else np.empty((0, SIZE, SIZE, 3), np.uint8)
    except FacexError as error:
        return error


def _span(share: Share, offset: int, batch_size: int) -> Span:
    """First and one past the last entry; empty where this rank's share is done and others still have a batch."""
    first = min(share.first + offset, share.last)
    return first, min(first + batch_size, share.last)


class _Occlude:
    """The same occlusion of a face for any batch size, number of ranks, and network."""

    def __init__(self, occluder: Occluder, seed: int, repeat: int) -> None:
        self.view = OccludedView(occluder)
        self.generators = KeyedGenerators(seed, repr(occluder), repeat, mirrored=False)

    def __call__(self, images: np.ndarray, first: int) -> np.ndarray:
        return self.view(images, self.generators, first)[0]


def _embed(method: Method, nets: Nets, images: np.ndarray, view: View, device: torch.device | str) -> torch.Tensor:
    shown = images[:, :, ::-1] if view == "mirrored" else images
    return embed_batch(method, nets, shown, "rgb", device, flip=view == "fused").vector
