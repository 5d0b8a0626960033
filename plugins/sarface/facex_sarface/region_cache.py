"""Label maps of a whole data set, made once: training then reads them as the field `parsing` and runs no parser.

`parsing.rec` holds an 8-bit PNG of each picture's label map under the picture's key, as every companion field does
(`facex.data.companions`); a flip exchanges left and right labels. Maps are written in parts, each complete or not there:
what was interrupted goes on, and several processes or machines may share the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from facex.data import RecordFile, RecordWriter, open_dataset
from facex.data.card import CARD, read_card, write_card
from facex.data.companions import KNOWN
from facex.data.dataset import FaceSet, default_threads
from facex.data.decoding import OnError
from facex.data.imageio import encode_png
from facex.data.sources.files import FileSet
from facex.data.writer import pack_record
from facex.errors import ConfigError
from facex.files import write_json
from facex_sarface.masking import FIELD
from facex_sarface.parser_loading import LoadedParser

Progress = Callable[[int, int], None]  # maps there, maps in all
PARTS, PLAN = f".{FIELD}-parts", "plan.json"


@dataclass(frozen=True)
class CacheOptions:
    """size: side that pictures are brought to first, as `data.size` will in training; unset: as they are. shard (i, n): write
    the i-th (from 0) of n shares of the parts and do not join them. overwrite: replace maps that are there."""

    size: int | None = None
    batch_size: int = 64
    part_size: int = 8192
    shard: tuple[int, int] | None = None
    overwrite: bool = False
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.part_size < 1:
            raise ConfigError("a batch and a part hold at least one picture")
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise ConfigError(f"shard {self.shard[0]}/{self.shard[1]}: shards of n are 0/n .. n-1/n")


def write_region_cache(
    data: str | os.PathLike[str],
    parser: LoadedParser,
    out: str | os.PathLike[str] | None = None,
    options: CacheOptions | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the label maps of a data set, as `parser` finds them, at the pictures' size; returns `parsing.rec`, or with a
    shard the folder of the parts.

    out: unset, beside the pictures; else a folder that becomes a data set with these maps, the pictures linked.

    Raises:
        ConfigError: there are maps already (without overwrite), or parts of another parser or data set; a list file with
            `out`; a set whose card gives the field `parsing` another meaning.
        DataError: a picture that cannot be read, or is not square.
    """
    options = options or CacheOptions()
    dataset = open_dataset(data, color="bgr", size=options.size, on_error=options.on_error, allow_ignored=True)
    if not isinstance(dataset, FaceSet):
        raise ConfigError(f"{data}: a RecordIO set or pictures in folders are wanted")
    folder = dataset.about.folder if out is None else Path(out)
    target = folder / f"{FIELD}.rec"
    _check_target(dataset, target, out is not None, options)
    parts = folder / PARTS
    _start(parts, _plan(dataset, parser, options))
    shares = _shares(len(dataset), options)
    for done in _write_parts(dataset, parser, parts, shares, options):
        if progress is not None:
            progress(done, sum(map(len, shares.values())))
    if options.shard is not None:
        return parts
    if out is not None:
        _link_set(dataset, folder)
    _join(dataset, parts, target, options)
    shutil.rmtree(parts)
    return target


def _check_target(dataset: FaceSet, target: Path, elsewhere: bool, options: CacheOptions) -> None:
    folder, card = dataset.about.folder, dataset.about.card
    if target.exists() and not options.overwrite:
        raise ConfigError(
            f"{target}: there are label maps already: name another folder for these, or replace them (--overwrite)"
        )
    if elsewhere and target.parent.resolve() == folder.resolve():
        raise ConfigError(f"{target.parent} is the data set itself: leave the folder away to write beside its pictures")
    if elsewhere and isinstance(dataset, FileSet) and target.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{target.parent} lies among the pictures of {folder}: name a folder outside")
    if elsewhere and isinstance(dataset, FileSet) and Path(dataset.name) != folder:
        raise ConfigError(f"{dataset.name}: maps of a list are written beside it: leave the folder away")
    if not elsewhere and card is not None and card.fields.get(FIELD, KNOWN[FIELD]) != KNOWN[FIELD]:
        raise ConfigError(
            f"{folder / CARD}: its field {FIELD!r} has other classes than CelebAMask-HQ's: name another folder for the maps"
        )


def _plan(dataset: FaceSet, parser: LoadedParser, options: CacheOptions) -> dict[str, Any]:
    """What must be equal for parts to belong together."""
    keys = hashlib.sha256(np.ascontiguousarray(dataset.about.keys).tobytes()).hexdigest()
    config = {name: value for name, value in asdict(parser.config).items() if name in ("size", "input", "table")}
    return json.loads(  # as it will be read back
        json.dumps(
            {
                "data": str(Path(dataset.name).resolve()),
                "pictures": len(dataset),
                "keys": keys,
                "size": dataset.size,
                "part_size": options.part_size,
                "parser": {**config, "tensors": digest(parser.module)},
            }
        )
    )


def digest(module: nn.Module) -> str:
    """SHA-256 of a module's tensors, by name."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _start(parts: Path, plan: dict[str, Any]) -> None:
    parts.mkdir(parents=True, exist_ok=True)
    file = parts / PLAN
    if not file.is_file():
        write_json(file, plan)
        return
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: damaged: remove {parts} and begin anew: {error}") from error
    differing = sorted(name for name in plan if there.get(name) != plan[name])
    if differing:
        raise ConfigError(
            f"{parts}: parts of another run ({', '.join(differing)} differ): remove that folder, or use what it was made with"
        )


def _shares(count: int, options: CacheOptions) -> dict[int, np.ndarray]:
    """Sample numbers of the parts that are this process's, by part."""
    mine, shards = options.shard or (0, 1)
    starts = enumerate(range(0, count, options.part_size))
    return {k: np.arange(s, min(s + options.part_size, count)) for k, s in starts if k % shards == mine}


def _write_parts(
    dataset: FaceSet, parser: LoadedParser, parts: Path, shares: dict[int, np.ndarray], options: CacheOptions
) -> Iterator[int]:
    """Write the parts that are not there; yields how many maps there are so far."""
    done = 0
    for number, rows in shares.items():
        if _complete(parts, number, len(rows)):
            done += len(rows)
            yield done
            continue
        with RecordWriter(parts / _name(number)) as writer:
            for some, maps in _maps(dataset, parser, rows, options.batch_size):
                for row, payload in zip(some, maps, strict=True):
                    key = int(dataset.about.keys[row])
                    writer.write(key, pack_record(0, payload, key))
                done += len(some)
                yield done


def _name(number: int) -> str:
    return f"part-{number:06d}"


def _complete(parts: Path, number: int, count: int) -> bool:
    """The index is the last that a writer renames."""
    path = parts / f"{_name(number)}.rec"
    return path.with_suffix(".idx").is_file() and path.is_file() and len(RecordFile(path)) == count


def _maps(
    dataset: FaceSet, parser: LoadedParser, rows: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    """Sample numbers and their maps as PNG; the next pictures are read while the parser works."""

    def read(some: np.ndarray) -> Tensor:
        fields = dataset.allocate(len(some))
        dataset.read(some, fields)
        return fields["image"]

    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with ThreadPoolExecutor(1 + default_threads()) as pool:
        ahead = pool.submit(read, batches[0])
        for some, following in zip(batches, [*batches[1:], None], strict=True):
            images = ahead.result()
            if following is not None:
                ahead = pool.submit(read, following)
            maps = parser.labels(images, dataset.color).cpu().numpy()
            yield some, list(pool.map(encode_png, maps))


def _join(dataset: FaceSet, parts: Path, target: Path, options: CacheOptions) -> None:
    """All parts as one file. Records that were dropped when the set was opened have a map too: the set's reader asks one for
    every key."""
    with RecordWriter(target) as writer:
        for number in range(-(-len(dataset) // options.part_size)):
            part = RecordFile(parts / f"{_name(number)}.rec")
            for key in part.keys:
                writer.write(int(key), part.read(int(key)))
        nothing = encode_png(np.zeros(dataset.size, np.uint8))
        for key in np.setdiff1d(dataset.about.all_keys, dataset.about.keys).tolist():
            writer.write(key, pack_record(0, nothing, key))


def _link_set(dataset: FaceSet, folder: Path) -> None:
    """Links to everything of the set but its maps; the card says what the maps are."""
    source = dataset.about.folder.resolve()
    for entry in sorted(source.iterdir()):
        link = folder / entry.name
        if (
            entry.name in (CARD, f"{FIELD}.rec", f"{FIELD}.idx")
            or entry.name.startswith(".")
            or folder.resolve() == entry
        ):
            continue
        if not link.exists():
            link.symlink_to(entry, target_is_directory=entry.is_dir())
    card = read_card(source)
    if card is not None:
        write_card(folder, replace(card, fields={**card.fields, FIELD: KNOWN[FIELD]}))
