"""How well an occlusion map meets the true mask: intersection over union of the occluded and of the clean region.

Counts are summed over pictures before anything is divided, so a picture without occlusion is no special case.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from facex.errors import DataError

# The name of the map in `Embedding.maps`: uint8 [B, H, W], 255 = occluded, or float [B, H, W], the chance of it.
OCCLUSION_MAP = "occlusion"


@dataclass
class RegionCounts:
    """Pixels as counted so far, int64 [2, 2]: row = truly clean, occluded; column = said to be clean, occluded."""

    pixels: np.ndarray = field(default_factory=lambda: np.zeros((2, 2), np.int64))

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Count pictures: bool arrays of one shape [..., H, W], True = occluded. Raises DataError for another kind."""
        if predicted.shape != truth.shape:
            raise DataError(
                f"occlusion maps {list(predicted.shape)} and masks {list(truth.shape)}: they must have one size"
                " (`resize_masks` brings masks to it)"
            )
        if predicted.dtype != bool or truth.dtype != bool:
            raise DataError(f"occlusion as booleans is wanted, not {predicted.dtype} and {truth.dtype}")
        self.pixels += np.bincount((2 * truth + predicted).ravel(), minlength=4).reshape(2, 2)

    def iou(self) -> RegionIou:
        """The rates of all pictures together; NaN for a region that neither the maps nor the masks have."""
        (clean, false_alarm), (missed, occluded) = self.pixels.tolist()
        wrong = false_alarm + missed
        return RegionIou(_share(occluded, occluded + wrong), _share(clean, clean + wrong), int(self.pixels.sum()))


@dataclass(frozen=True)
class RegionIou:
    """Intersection over union of the occluded and the clean region (0..1), over `pixels` pixels."""

    occluded: float
    clean: float
    pixels: int

    @property
    def mean(self) -> float:
        """Mean of the regions that there are."""
        there = [value for value in (self.occluded, self.clean) if not np.isnan(value)]
        return float(np.mean(there)) if there else float("nan")

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a JSON file; None for a region that is nowhere."""
        values = {"occluded": self.occluded, "clean": self.clean, "mean": self.mean}
        return {name: None if np.isnan(value) else value for name, value in values.items()}


def region_iou(predicted: np.ndarray, truth: np.ndarray) -> RegionIou:
    """IoU of bool arrays [..., H, W], True = occluded, all pictures together."""
    counts = RegionCounts()
    counts.add(np.asarray(predicted), np.asarray(truth))
    return counts.iou()


def resize_masks(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Masks uint8 [n, H, W] at another size by nearest neighbour, as `Field` kind "mask" is resampled."""
    if masks.shape[1:] == (height, width):
        return masks
    return np.stack([cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for mask in masks])


def is_occluded(found: np.ndarray) -> np.ndarray:
    """Occluded pixels of maps [n, H, W], uint8 (255 = occluded) or the chance of occlusion as floats (above one half):
    bool.

    Raises DataError for another shape or type, NaN, or a chance outside 0..1."""
    if found.ndim != 3 or (found.dtype != np.uint8 and found.dtype.kind != "f"):
        raise DataError(
            f"occlusion maps {found.dtype} {list(found.shape)}: uint8 or floats [pictures, H, W] are wanted"
        )
    if found.dtype == np.uint8:
        return found > 127
    if not (np.isfinite(found).all() and found.min(initial=0) >= 0 and found.max(initial=0) <= 1):
        raise DataError("an occlusion map holds NaN or values outside 0..1; as floats it must be a chance")
    return found > 0.5


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
