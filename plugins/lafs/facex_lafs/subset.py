"""Few-shot subsets of a training set: k pictures of each identity, a share of identities or of records, with a
manifest.

`fraction` has one meaning: this share of the records or of the identities, the first ones (`head`) or drawn at random
with a seed (`random`). Class numbers stay those of the whole set unless they are asked to be counted anew.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facex import __version__
from facex.data import FaceSetWriter, RecordFile
from facex.data.card import read_card
from facex.data.property import read_property
from facex.data.sources.recordset import find_layout, find_records
from facex.errors import ConfigError, DataError
from facex.files import write_json

MANIFEST = "subset.json"


@dataclass(frozen=True)
class SubsetOptions:
    """What of a set is kept."""

    per_identity: int | None = None
    """Pictures kept of each identity (its first ones, or random ones); unset: all."""
    fraction: float = 1.0
    """Share of the records or identities that is kept, rounded down."""
    unit: Literal["records", "identities"] = "records"
    """What `fraction` counts, after `per_identity`."""
    choice: Literal["head", "random"] = "head"
    """The first ones, or a draw."""
    seed: int = 0
    """Of the draws."""
    renumber: bool = False
    """Count classes anew from 0; otherwise the class count of the whole set is kept, and so are its labels."""

    def check(self) -> None:
        """ConfigError for what cannot be."""
        if not 0 < self.fraction <= 1 or (self.per_identity is not None and self.per_identity < 1):
            raise ConfigError(f"fraction={self.fraction} lies in 0..1, per_identity={self.per_identity} is at least 1")


def choose(labels: np.ndarray, options: SubsetOptions) -> np.ndarray:
    """Places of the kept records, int64, ascending, of labels int64 [N]. Raises DataError where nothing is left."""
    options.check()
    rng = np.random.default_rng(options.seed)
    kept = np.arange(len(labels))
    if options.per_identity is not None:
        order = rng.permutation(len(labels)) if options.choice == "random" else kept
        kept = np.sort(order[_rank_within(labels[order]) < options.per_identity])
    if options.unit == "identities":
        people = np.unique(labels[kept])
        count = int(len(people) * options.fraction)
        chosen = people[:count] if options.choice == "head" else rng.choice(people, count, replace=False)
        kept = kept[np.isin(labels[kept], chosen)]
    else:
        count = int(len(kept) * options.fraction)
        kept = kept[:count] if options.choice == "head" else np.sort(rng.choice(kept, count, replace=False))
    if not len(kept):
        raise DataError(f"nothing is left of {len(labels)} records with fraction={options.fraction}")
    return kept


def _rank_within(labels: np.ndarray) -> np.ndarray:
    """How many earlier entries have the same label, int64 [N]."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(labels) else np.empty(0, np.int64)
    lengths = np.diff(np.append(starts, len(labels)))
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, lengths)
    return ranks


def write_subset(source: str | os.PathLike[str], out: str | os.PathLike[str], options: SubsetOptions) -> dict[str, Any]:
    """Write the chosen records of a RecordIO set into the folder `out`, byte for byte, with a manifest; returns the
    manifest.

    Raises DataError for a source without records, ConfigError for options that cannot be.
    """
    folder = Path(source)
    records = find_records(folder) if folder.is_dir() else folder
    if records is None or not records.is_file():
        raise DataError(f"{source}: no .rec file; pack an image folder first (facex pack)")
    if Path(out).resolve() == records.parent.resolve():
        raise ConfigError(f"{out} is the set itself: name another folder")
    file = RecordFile(records)
    positions = find_layout(file).positions
    labels = _labels(file, positions)
    kept = choose(labels, options)
    classes = _classes(records.parent, labels)
    new = np.unique(labels[kept], return_inverse=True)[1] if options.renumber else labels[kept]
    size, color = _size(records.parent, file, int(positions[0]))
    order = kept[np.argsort(new, kind="stable")]
    by_place = dict(zip(kept.tolist(), new.tolist(), strict=True))
    digest = hashlib.sha256()
    with FaceSetWriter(out, int(new.max()) + 1 if options.renumber else classes, size, color=color) as writer:
        for place in order.tolist():
            payload = file.payload_at(int(positions[place]))
            writer.add(payload, by_place[place])
            digest.update(payload)
    manifest = _manifest(records, options, labels, order, digest.hexdigest())
    write_json(Path(out) / MANIFEST, manifest)
    return manifest


def _labels(file: RecordFile, positions: np.ndarray) -> np.ndarray:
    columns = file.headers(positions)
    if columns.failures:
        row, problem = columns.failures[0]
        raise DataError(f"{file.name_at(int(positions[row]))}: {problem}")
    return columns.label0.astype(np.int64)


def _classes(folder: Path, labels: np.ndarray) -> int:
    stated = folder / "property"
    return read_property(stated).classes if stated.is_file() else int(labels.max()) + 1


def _size(folder: Path, file: RecordFile, position: int) -> tuple[tuple[int, int], str]:
    from facex.data.imageio import image_info

    card = read_card(folder)
    info = image_info(file.payload_at(position))
    return (info.height, info.width), card.color if card is not None else "rgb"


def _manifest(
    records: Path, options: SubsetOptions, labels: np.ndarray, kept: np.ndarray, digest: str
) -> dict[str, Any]:
    counts = np.unique(labels[kept], return_counts=True)[1]
    return {
        "facex": __version__,
        "source": records.name,
        "source_records": len(labels),
        "source_identities": len(np.unique(labels)),
        "options": asdict(options),
        "records": len(kept),
        "identities": len(counts),
        "per_identity": {"least": int(counts.min()), "most": int(counts.max())},
        "sha256_of_pictures": digest,
        "positions": kept.tolist(),
    }
