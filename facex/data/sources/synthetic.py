"""`synthetic:CLASSES[xIMAGES]`: one random picture under many labels, for measuring speed (arcface_torch's `rec = "synthetic"`).

arcface_torch labels every picture 1; here the labels go round all classes, so that Partial FC sees the batches it would see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from facex.data.dataset import ReadOptions
from facex.errors import ConfigError, DataError
from facex.methods.batch import Field

PREFIX = "synthetic:"
IMAGES = 1_000_000  # arcface_torch's length


class SyntheticSet:
    """A face set without files; see `FaceDataset`. Sample i is the one picture with label i % classes."""

    kinds: Mapping[str, Field] = {"image": Field("image"), "label": Field("label")}
    error_count = 0

    def __init__(self, name: str, num_classes: int, images: int, options: ReadOptions) -> None:
        extra = sorted(set(options.fields) - {"image", "label"})
        if extra:
            raise DataError(f"{name} has pictures and labels, no {', '.join(extra)}")
        self.name, self.num_classes, self.color = name, num_classes, options.color
        self.size = options.size or (112, 112)
        self._labels = np.arange(images, dtype=np.int64) % num_classes
        self._image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*self.size, 3), np.uint8))

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        """int64 [N]."""
        return self._labels

    def allocate(self, b: int, pin: bool = False) -> dict[str, Tensor]:
        """Buffers for b samples: image uint8 [b, H, W, 3], label int64 [b]."""
        return {
            "image": torch.empty((b, *self.size, 3), dtype=torch.uint8, pin_memory=pin),
            "label": torch.empty(b, dtype=torch.int64, pin_memory=pin),
        }

    def read(self, indices: np.ndarray | Sequence[int], out: dict[str, Tensor]) -> None:
        """Fill `out` with the samples `indices`."""
        out["image"][...] = self._image
        out["label"].numpy()[...] = self._labels[np.asarray(indices, np.int64)]


def open_synthetic(text: str, options: ReadOptions) -> SyntheticSet:
    """The set that `text` describes; ConfigError says how one is written."""
    found = re.fullmatch(r"synthetic:(\d+)(?:x(\d+))?", text)
    if found is None or not int(found.group(1)) or found.group(2) == "0":
        raise ConfigError(f"{text!r}: a synthetic set is written synthetic:CLASSES or synthetic:CLASSESxIMAGES")
    return SyntheticSet(text, int(found.group(1)), int(found.group(2) or IMAGES), options)
