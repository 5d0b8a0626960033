"""A training set whose faces have masked copies made beforehand: in each epoch some of them are shown instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.data import open_dataset
from facex.data.dataset import FaceSet, warn
from facex.data.draws import Draws
from facex.data.sources.files import FileSet
from facex.errors import ConfigError, DataError
from facex.methods import Field

OWN = ("image", "label", "flag")
Uniform = Callable[[int, np.ndarray], np.ndarray]


class MaskedCopies:
    """Faces with masked copies under the same names, and the field `flag`: whether the copy is shown.

    In an epoch, the copy of a face is taken when a uniform number drawn for (seed, epoch, face) is below
    `masked_faces`; the choice is made before anything is decoded. A face without a copy stays as it is, and is counted
    in `missing_copies`.

    Args:
        path: folder with the subfolders `originals` and `copies`; or a face set itself, whose copies are then the set
            `copies`, a path seen from this one or an absolute one.
        color: channel order to deliver.
        fields: further companion fields, of the originals.
        masked_faces: share of the faces that is shown masked.
        originals, copies: names of the two subfolders, each an image folder or a RecordIO set. In image folders a copy
            has its original's path, in RecordIO sets its key.
        seed: of the choice.
        size, on_error, threads: as in facex.data.open_dataset.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        color: str = "rgb",
        fields: Iterable[str] = ("image", "label"),
        masked_faces: float = 0.1,
        originals: str = "imgs",
        copies: str = "masked",
        seed: int = 0,
        size: int | None = None,
        on_error: str = "raise",
        threads: int | None = None,
    ) -> None:
        if not 0 <= masked_faces <= 1:
            raise ConfigError(f"masked_faces {masked_faces} is no share: it lies in 0..1")
        self.masked_faces, self.seed = masked_faces, seed
        first = Path(path) / originals if (Path(path) / originals).is_dir() else Path(path)
        second = Path(path) / copies
        extra = tuple(name for name in fields if name not in OWN)
        options: dict[str, Any] = {"color": color, "size": size, "on_error": on_error, "threads": threads}
        self.originals: FaceSet = self._open(first, {**options, "fields": ("image", "label", *extra)})
        self.copies: FaceSet | None = None
        self.place = np.full(len(self.originals), -1, np.int64)  # of each face's copy, -1 = none
        if masked_faces > 0:
            if not second.is_dir():
                raise DataError(f"{second}: no such folder; it must hold the masked copies of the faces in {first}")
            self.copies, self.place = self._match(first, second, options)
        self.missing_copies = int((self.place < 0).sum()) if masked_faces > 0 else 0
        if self.missing_copies:
            warn(
                f"{second}: {self.missing_copies} of {len(self)} faces have no masked copy and stay holistic; the "
                f"first is {self._name(int(np.argmax(self.place < 0)))}"
            )
        self.uniform: Uniform = self._draw
        self.kinds: Mapping[str, Field] = {**self.originals.kinds, "flag": Field("flag")}

    @staticmethod
    def _open(path: Path, options: Mapping[str, Any]) -> FaceSet:
        found = open_dataset(path, **options)
        if not isinstance(found, FaceSet):
            raise ConfigError(f"{path}: masked copies need a set of pictures on the disk")
        return found

    def _match(self, first: Path, second: Path, options: Mapping[str, Any]) -> tuple[FaceSet, np.ndarray]:
        copies = self._open(second, {**options, "fields": ("image", "label")})
        if copies.size != self.originals.size:
            raise DataError(f"{second}: pictures of {copies.size}, those of {first} have {self.originals.size}")
        if isinstance(self.originals, FileSet) != isinstance(copies, FileSet):
            raise DataError(
                f"{first} and {second} are of different kinds: two image folders or two RecordIO sets are wanted"
            )
        if isinstance(self.originals, FileSet) and isinstance(copies, FileSet):
            names = {os.path.relpath(p, second): i for i, p in enumerate(copies.paths)}
            place = [names.get(os.path.relpath(p, first), -1) for p in self.originals.paths]
        else:
            keys = {int(k): i for i, k in enumerate(copies.about.keys)}
            place = [keys.get(int(k), -1) for k in self.originals.about.keys]
        found = np.array(place, np.int64)
        if (found < 0).all():
            raise DataError(
                f"{second}: holds no copy of any face in {first}; a copy has the name (or key) of its original"
            )
        return copies, found

    # -- FaceDataset --------------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """The folder of the originals."""
        return self.originals.name

    @property
    def color(self) -> str:
        """Channel order of the image field."""
        return self.originals.color

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image field."""
        return self.originals.size

    @property
    def num_classes(self) -> int:
        """Classes of the originals."""
        return self.originals.num_classes

    @property
    def error_count(self) -> int:
        """Pictures that could not be used so far."""
        return self.originals.error_count + (self.copies.error_count if self.copies is not None else 0)

    def __len__(self) -> int:
        return len(self.originals)

    def labels(self) -> np.ndarray:
        """int64 [N]."""
        return self.originals.labels()

    def allocate(self, b: int, pin: bool = False) -> dict[str, Tensor]:
        """The originals' buffers, and `flag` bool [b]."""
        return {**self.originals.allocate(b, pin), "flag": torch.empty(b, dtype=torch.bool, pin_memory=pin)}

    def read(self, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        """The originals, with flag 0."""
        out["flag"].zero_()
        self.originals.read(indices, {name: value for name, value in out.items() if name != "flag"})

    def read_in_epoch(self, epoch: int, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        """Originals and copies as this epoch chooses them."""
        indices = np.asarray(indices, np.int64)
        masked = (self.uniform(epoch, indices) < self.masked_faces) & (self.place[indices] >= 0)
        out["flag"].numpy()[...] = masked
        rest = {name: value for name, value in out.items() if name != "flag"}
        _read_rows(self.originals, indices, ~masked, rest)
        if masked.any():
            assert self.copies is not None
            if len(rest) > 2:  # companion fields are the originals'
                _read_rows(self.originals, indices, masked, rest)
            pictures = self.copies.allocate(int(masked.sum()))
            self.copies.read(self.place[indices[masked]], pictures)
            out["image"].numpy()[masked] = pictures["image"].numpy()
            out["label"].numpy()[masked] = np.where(pictures["label"].numpy() < 0, -1, self.labels()[indices[masked]])

    def _draw(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        draws = Draws(self.seed, epoch, torch.from_numpy(np.asarray(indices, np.int64)), "masked_copies/")
        return draws.uniform("copy").numpy()

    def _name(self, index: int) -> str:
        return self.originals._name(index)

    def __repr__(self) -> str:
        return f"MaskedCopies({self.originals!r}, {self.masked_faces:g} masked, {self.missing_copies} copies missing)"


def _read_rows(data: FaceSet, indices: np.ndarray, chosen: np.ndarray, out: dict[str, Tensor]) -> None:
    """Read the chosen samples into their rows."""
    if chosen.all():
        data.read(indices, out)
    elif chosen.any():
        part = data.allocate(int(chosen.sum()))
        data.read(indices[chosen], part)
        for name, value in part.items():
            out[name].numpy()[chosen] = value.numpy()
