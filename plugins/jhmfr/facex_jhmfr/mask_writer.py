"""The offline masked copy of a data set: every face with a mask on, under its own name or key."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facex.data import open_dataset
from facex.data.card import Card, write_card
from facex.data.dataset import IGNORED, FaceSet, default_threads
from facex.data.imageio import encode_jpeg, encode_png
from facex.data.masking import FaceMask
from facex.data.occluders.occlude import face_points
from facex.data.property import Property, write_property
from facex.data.sources.files import FileSet
from facex.data.verification import VerificationSet, write_bin
from facex.data.writer import RecordWriter, pack_record
from facex.errors import ConfigError, DataError, FacexError
from facex.methods.batch import Batch
from facex_jhmfr.masked_pairs import CONDITIONS, masked_pairs

Progress = Callable[[int, int], None]  # faces seen, faces in all
_TASK = 32  # faces of one task


@dataclass(frozen=True)
class MaskOptions:
    """How masks are drawn and written. on_error "skip" leaves out and counts what cannot be masked."""

    seed: int = 0
    quality: int = 95
    threads: int = 0  # 0: the cores of this machine
    on_error: str = "skip"


@dataclass
class MaskReport:
    """What was written; `left_out` faces could not be masked, `messages` are the first reasons."""

    written: int = 0
    left_out: int = 0
    messages: list[str] = field(default_factory=list)


def write_masked_copy(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    masks: FaceMask,
    options: MaskOptions | None = None,
    progress: Progress | None = None,
) -> MaskReport:
    """Write the masked copy of a RecordIO set (under the same keys) or an image folder (at the same places) to the
    folder `out`, which appears when all of it is written.

    Masks follow the set's landmarks, 68 or 5 points; without any the pictures are taken for aligned ArcFace crops. The
    mask of a face is drawn from (seed, its number in the set): threads and faces that are left out change nothing.

    Raises:
        ConfigError: `out` exists. DataError: no face could be masked, or, with on_error "raise", the first one that
            could not.
    """
    options, out = options or MaskOptions(), Path(out)
    if out.exists():
        raise ConfigError(f"{out} exists already: name a new folder, or remove it")
    data = _open(source, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        report = _write(data, part, masks, options, progress)
        part.chmod(0o755)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    report.left_out = data.about.total - report.written
    report.messages = [*data.errors[:5], *report.messages][:5]
    return report


def write_masked_sets(
    one: VerificationSet, out: str | os.PathLike[str], seed: int = 0, masks: FaceMask | None = None
) -> list[Path]:
    """Write a verification set under H-M and M-M as `.bin` files with their flags beside them; the paths.

    Raises:
        ConfigError: one of them exists.
    """
    paths = [Path(out) / f"{one.name}-{condition}.bin" for condition in CONDITIONS[1:]]
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} exists already: name another folder, or remove it")
    masks = masks or FaceMask()
    for condition, path in zip(CONDITIONS[1:], paths, strict=True):
        masked = masked_pairs(one, condition, seed, masks)
        write_bin(path, masked.entries, masked.issame.tolist(), masked.flags)
    return paths


def _open(source: str | os.PathLike[str], options: MaskOptions) -> FaceSet:
    """The set, with its landmarks where it has some."""
    common: dict[str, Any] = {"on_error": options.on_error, "threads": 1, "allow_ignored": True}
    data = None
    with suppress(FacexError):  # it has no landmarks; other faults show again below
        data = open_dataset(source, fields=("image", "label", "landmarks"), **common)
    data = data or open_dataset(source, **common)
    if not isinstance(data, FaceSet) or (isinstance(data, FileSet) and not Path(source).is_dir()):
        raise ConfigError(f"{source}: a RecordIO set or an image folder is wanted; facex pack makes one of a list")
    return data


def _write(data: FaceSet, part: Path, masks: FaceMask, options: MaskOptions, progress: Progress | None) -> MaskReport:
    report, largest = MaskReport(), -1
    with ExitStack() as stack:
        files = isinstance(data, FileSet)
        records = None if files else stack.enter_context(RecordWriter(part / "train"))
        done = 0
        for indices, pictures in _masked(data, masks, options):
            for index, picture in zip(indices, pictures, strict=True):
                if isinstance(picture, DataError):
                    report.messages.append(str(picture))
                    continue
                label = int(data.labels()[index])
                if records is None:
                    place = part / name_of(data, index)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(picture)
                else:
                    key = int(data.about.keys[index])
                    records.write(key, pack_record(label, picture, key))
                report.written, largest = report.written + 1, max(largest, label)
            done += len(indices)
            if progress is not None:
                progress(done, len(data))
        if not report.written:
            first = [*data.errors, *report.messages][:1]
            raise DataError(f"{data.name}: none of {len(data)} faces could be masked: {''.join(first)}")
    if not files:
        height, width = data.size
        write_property(part / "property", Property(largest + 1, height, width))
        write_card(part, Card("rgb", (height, width), largest + 1, report.written))
    return report


def _masked(
    data: FaceSet, masks: FaceMask, options: MaskOptions
) -> Iterator[tuple[np.ndarray, list[bytes | DataError]]]:
    """Sample numbers and their masked pictures, encoded, in order."""
    threads = options.threads or default_threads()
    starts = range(0, len(data), _TASK)
    ahead: deque[tuple[np.ndarray, Future[list[bytes | DataError]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in starts:
                if len(ahead) >= 2 * threads:  # what is masked and not yet written stays in memory
                    indices, future = ahead.popleft()
                    yield indices, future.result()
                indices = np.arange(start, min(start + _TASK, len(data)))
                ahead.append((indices, pool.submit(_mask_some, data, indices, masks, options)))
            while ahead:
                indices, future = ahead.popleft()
                yield indices, future.result()
        finally:
            for _, future in ahead:
                future.cancel()


def name_of(data: FaceSet, index: int) -> str:
    """The path of a sample in its image folder, or its key."""
    if isinstance(data, FileSet):
        return os.path.relpath(data.paths[index], data.about.folder)
    return f"key {data.about.keys[index]}"


def _mask_some(data: FaceSet, indices: np.ndarray, masks: FaceMask, options: MaskOptions) -> list[bytes | DataError]:
    fields = data.allocate(len(indices))
    data.read(indices, fields)
    batch = Batch(fields, dict(data.kinds), data.color, torch.from_numpy(indices), torch.arange(len(indices)))
    points, out = face_points(batch), list[bytes | DataError]()
    for row, index in enumerate(indices):
        name = name_of(data, index)
        if fields["label"][row] == IGNORED and data.labels()[index] != IGNORED:
            out.append(DataError(f"{data.name}: {name}: does not decode"))
            continue
        rng = np.random.RandomState([options.seed, int(data.about.rows[index])])
        landmarks = None if points is None else points[row]
        try:
            masked = masks.draw_on(fields["image"][row].numpy(), rng, landmarks)[0]
        except DataError as error:
            if options.on_error == "raise":
                raise DataError(f"{data.name}: {name}: {error}") from error
            out.append(DataError(f"{data.name}: {name}: {error}"))
            continue
        jpeg = not name.lower().endswith((".png", ".bmp"))
        out.append(encode_jpeg(masked, quality=options.quality) if jpeg else encode_png(masked))
    return out
