"""Rendered data sets on disk: a RecordIO folder in insightface's layout with every label, and a verification set."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.context
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from facex.data.companions import KNOWN
from facex.data.verification import write_bin
from facex.data.writer import FaceSetWriter
from facex.errors import ConfigError, DataError
from facex.files import write_json
from facex.methods.batch import Field
from facex.synth.layers import PARSING_SWAPS
from facex.synth.pairs import make_pairs
from facex.synth.renderer import Renderer

STAMP = "synth.json"
FIELDS: dict[str, Field] = {
    "landmarks5": KNOWN["landmarks5"],
    "landmarks68": KNOWN["landmarks68"],
    "parsing": Field("label_map", PARSING_SWAPS),
    "occlusion": Field("mask"),
    "flags": Field("flag"),
}
Sample = tuple[bytes, dict[str, Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SynthOptions:
    """What a data set is made of; the same options give the same files, whatever the number of workers."""

    identities: int = 600
    images_per_identity: int = 20
    seed: int = 0
    size: int = 112
    split: Literal["train", "val", "both"] = "both"
    pairs: int = 600
    val_identities: int = 160
    fields: tuple[str, ...] = tuple(FIELDS)

    def check(self) -> None:
        """Raise ConfigError for values that cannot be."""
        if self.identities < 1 or self.images_per_identity < 1:
            raise ConfigError("identities and images-per-identity must be at least 1")
        if self.identities > 1_000_000:
            raise ConfigError("at most 1,000,000 identities: the numbers above are held out for verification")
        if not 32 <= self.size <= 1024:
            raise ConfigError(f"size must be 32 to 1024 pixels, not {self.size}")
        unknown = [name for name in self.fields if name not in FIELDS]
        if unknown:
            raise ConfigError(f"unknown field {unknown[0]!r}; there are {', '.join(FIELDS)}")
        if self.split != "train":
            make_pairs(self.seed, self.pairs, self.val_identities)

    def digest(self) -> str:
        """Changes with the options and with the renderer's Python source."""
        sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
        return hashlib.sha256(json.dumps(asdict(self)).encode() + sources).hexdigest()


@dataclass(frozen=True)
class SynthReport:
    """What is in the folder now; `reused`: it was there already."""

    folder: Path
    images: int
    pairs: int
    reused: bool


@dataclass(frozen=True)
class _Job:
    seed: int
    size: int
    pictures: tuple[tuple[int, int], ...]
    fields: tuple[str, ...]


def _render(job: _Job) -> list[Sample]:
    """Pictures of one job, encoded, with the fields asked for."""
    out = []
    for face in Renderer(job.seed, job.size).render_batch(job.pictures):
        values = {
            "landmarks5": face.landmarks5,
            "landmarks68": face.landmarks68,
            "parsing": face.parsing,
            "occlusion": face.occlusion,
            "flags": face.flags["masked"],
        }
        out.append((face.jpeg(), {name: values[name] for name in job.fields}))
    return out


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _context() -> multiprocessing.context.BaseContext:
    """How processes start. Never by a fork of this one: it may hold threads (torch, a progress bar) that a fork would
    lose. A fork server imports this module once for all workers."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[list[Sample]]:
    """Results in the order of the jobs. Raises DataError when a process dies."""
    if workers == 0:  # a process takes seconds to start: none for a few hundred pictures
        workers = min(_cores(), max(1, sum(len(job.pictures) for job in jobs) // 500))
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(_render, jobs)
        return
    ahead: deque[Future[list[Sample]]] = deque()
    context = _context()
    with ProcessPoolExecutor(workers, context, _one_thread) as pool:
        try:
            for job in jobs:
                if len(ahead) >= 4 * workers:  # what is rendered and not yet written stays in memory
                    yield ahead.popleft().result()
                ahead.append(pool.submit(_render, job))
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "a rendering process died (killed, or out of memory): run again with fewer --workers"
            ) from error
        finally:
            for future in ahead:
                future.cancel()


def write_dataset(
    folder: str | os.PathLike[str], options: SynthOptions, workers: int = 0, progress: Progress | None = None
) -> SynthReport:
    """Render into `folder`: train.rec and its companions, `val.bin`, and a stamp that is written last.

    A folder whose stamp fits the options is left alone. `workers` 0 takes all cores; `progress(done, total)` counts
    pictures. Raises ConfigError for options that cannot be.
    """
    options.check()
    folder, train, val = Path(folder), options.split != "val", options.split != "train"
    images = options.identities * options.images_per_identity if train else 0
    pairs = options.pairs if val else 0
    if finished(folder, options):
        return SynthReport(folder, images, pairs, True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAMP).unlink(missing_ok=True)
    total, done = images + 2 * pairs, 0

    def count(rendered: int) -> None:
        nonlocal done
        done += rendered
        if progress is not None:
            progress(done, total)

    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    try:
        if train:
            _write_train(part, options, workers, count)
        if val:
            _write_val(part, options, workers, count)
        for path in sorted(part.iterdir()):
            os.replace(path, folder / path.name)
        write_json(folder / STAMP, {"digest": options.digest(), "options": asdict(options)})
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return SynthReport(folder, images, pairs, False)


def finished(folder: Path, options: SynthOptions) -> bool:
    """Whether `folder` holds all of what these options make."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    needed = ["train.rec", "train.idx", "property", "facex.json"] if options.split != "val" else []
    needed += ["val.bin"] if options.split != "train" else []
    return bool(stamp == options.digest()) and all((folder / name).is_file() for name in needed)


def _write_train(part: Path, o: SynthOptions, workers: int, count: Callable[[int], None]) -> None:
    jobs = [
        _Job(o.seed, o.size, tuple((i, k) for k in range(o.images_per_identity)), o.fields) for i in range(o.identities)
    ]
    fields = {name: FIELDS[name] for name in o.fields}
    with FaceSetWriter(part, o.identities, (o.size, o.size), fields=fields) as writer:
        for label, samples in enumerate(_run(jobs, workers)):
            for image, values in samples:
                writer.add(image, label, **values)
            count(len(samples))


def is_rendered(path: Path | None) -> bool:
    """Whether `facex synth` wrote the set in the file `path`: nobody's photo is in it."""
    return path is not None and (path.parent / STAMP).is_file()


def _write_val(part: Path, o: SynthOptions, workers: int, count: Callable[[int], None]) -> None:
    chosen = make_pairs(o.seed, o.pairs, o.val_identities)
    pictures = [picture for pair in chosen for picture in (pair.first, pair.second)]
    jobs = [_Job(o.seed, o.size, tuple(pictures[i : i + 40]), ()) for i in range(0, len(pictures), 40)]
    entries: list[bytes] = []
    for samples in _run(jobs, workers):
        entries += [image for image, _ in samples]
        count(len(samples))
    write_bin(part / "val.bin", entries, np.array([pair.same for pair in chosen]).tolist())
