"""Offline-drawn face masks: a masked twin of every picture and its mask, in record files beside the training set.

`mask_out.rec` holds the masked faces and `mask.rec` the masks (255 = clean), both under the keys of `train.rec`, both JPEG, as
MSML's mask renderer writes them. Where there are none, `Occlude` draws masks itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facex.data import open_dataset
from facex.data.dataset import FaceSet, default_threads
from facex.data.draws import Draws
from facex.data.imageio import ImageError, decode_image
from facex.data.recordio import RecordFile
from facex.data.transforms import Transform
from facex.errors import ConfigError, DataError
from facex.methods.batch import Batch, Field

FACES, MASKS = "mask_out.rec", "mask.rec"


class MaskedTwins:
    """A RecordIO folder with its masked twins, for `data.dataset: facex_msml.twins.MaskedTwins`; see FaceDataset.

    Beside image and label: `masked` (image), the masked face; `masked_occlusion` (mask, 255 = occluded). Raises DataError for a
    folder without the two files, for a picture without a twin, and for a twin of another size.
    """

    def __init__(self, path: str | Path, color: str = "rgb", fields: Iterable[str] = ("image", "label")) -> None:
        wanted = tuple(name for name in fields if name not in ("masked", "masked_occlusion"))
        faces = open_dataset(path, color=color, fields=wanted)
        if not isinstance(faces, FaceSet):
            raise DataError(f"{path} is no RecordIO folder; masked twins lie in one")
        self._faces, folder = faces, faces.about.folder
        self._twins = [self._open(folder / name) for name in (FACES, MASKS)]
        self.kinds: dict[str, Field] = {**faces.kinds, "masked": Field("image"), "masked_occlusion": Field("mask")}
        self._threads = default_threads()

    def _open(self, path: Path) -> RecordFile:
        if not path.is_file():
            raise DataError(f"{path} is missing: masked twins need {FACES} and {MASKS} beside the training records")
        file = RecordFile(path)
        absent = file.positions(self._faces.about.keys) < 0
        if absent.any():
            key = int(self._faces.about.keys[absent][0])
            raise DataError(f"{path}: no twin for key {key} ({int(absent.sum())} are missing)")
        return file

    @property
    def name(self) -> str:
        """The folder."""
        return self._faces.name

    @property
    def color(self) -> str:
        """Channel order of the image fields."""
        return self._faces.color

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self._faces.size

    @property
    def num_classes(self) -> int:
        """Classes of the set."""
        return self._faces.num_classes

    def __len__(self) -> int:
        return len(self._faces)

    def labels(self) -> np.ndarray:
        """int64 [N]."""
        return self._faces.labels()

    def allocate(self, b: int, pin: bool = False) -> dict[str, Tensor]:
        """Buffers for b samples."""
        masked = torch.empty((b, *self.size, 3), dtype=torch.uint8, pin_memory=pin)
        occlusion = torch.empty((b, *self.size), dtype=torch.uint8, pin_memory=pin)
        return {**self._faces.allocate(b, pin), "masked": masked, "masked_occlusion": occlusion}

    def read(self, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        """Fill `out` with the samples `indices`."""
        plain = {name: values for name, values in out.items() if not name.startswith("masked")}
        self._faces.read(indices, plain)
        keys = self._faces.about.keys[np.asarray(indices, np.int64)]

        def work(row: int) -> None:
            key = int(keys[row])
            out["masked"].numpy()[row] = self._picture(0, key)
            out["masked_occlusion"].numpy()[row] = np.where(self._picture(1, key)[..., 0] > 128, 0, 255)

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(work, range(len(keys))))

    def _picture(self, number: int, key: int) -> np.ndarray:
        file = self._twins[number]
        try:
            image = decode_image(file.unpack(key)[1], color=self.color)
        except ImageError as error:
            raise DataError(f"{file.path}: key {key}: cannot decode: {error}") from error
        if image.shape[:2] != self.size:
            raise DataError(f"{file.path}: key {key}: a twin of {image.shape[:2]}, the pictures have {self.size}")
        return image


class UseTwin(Transform):
    """With probability `p` a sample becomes its masked twin, whatever `Occlude` did to it before: picture and mask. The field
    `twin` (flag) says which did."""

    def __init__(self, p: float = 0.2) -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"UseTwin: p={p} is no probability")
        self.p = p

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        if "masked" not in batch or "masked_occlusion" not in batch:
            raise ConfigError("UseTwin needs masked twins: set data.dataset to facex_msml.twins.MaskedTwins")
        twin = draws.uniform("twin") < self.p
        fields = dict(batch.fields)
        occlusion = fields.get("occlusion", torch.zeros_like(fields["masked_occlusion"]))
        fields["image"] = torch.where(twin[:, None, None, None], fields.pop("masked"), fields["image"])
        fields["occlusion"] = torch.where(twin[:, None, None], fields.pop("masked_occlusion"), occlusion)
        if "occluder" in fields:
            fields["occluder"] = torch.where(twin, torch.zeros_like(fields["occluder"]), fields["occluder"])
        kinds: Mapping[str, Field] = {**batch.kinds, "occlusion": Field("mask"), "twin": Field("flag")}
        kept = {name: kind for name, kind in kinds.items() if name not in ("masked", "masked_occlusion")}
        return replace(batch, fields={**fields, "twin": twin}, kinds=kept)
