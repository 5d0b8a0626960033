"""Checking labels before training: whole, in range, and as many classes as the set says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facex.errors import RecordError


def check_labels(
    values: np.ndarray, num_classes: int | None, name: Callable[[int], str], allow_ignored: bool = False
) -> np.ndarray:
    """float32 or integer [N] -> int64 [N]. `name(row)` names a sample in messages.

    Raises RecordError for a label that is not a whole number, negative (but -1 with `allow_ignored`), or at or above
    `num_classes` (None: no upper bound).
    """
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(values) & (values == np.floor(values))
    if not whole.all():
        row = int(np.flatnonzero(~whole)[0])
        raise RecordError(f"{name(row)}: label {values[row]:g} is not an integer")
    low = values < 0
    if allow_ignored:
        low &= values != -1
    high = np.zeros(len(values), bool) if num_classes is None else values >= num_classes
    if (low | high).any():
        row = int(np.flatnonzero(low | high)[0])
        bound = f" for {num_classes} classes" if num_classes is not None else ""
        hint = " (-1 marks unlabelled samples where they are allowed)" if values[row] == -1 else ""
        raise RecordError(f"{name(row)}: label {values[row]:.0f} out of range{bound}{hint}")
    return values.astype(np.int64)


def count_classes(labels: np.ndarray) -> int:
    """Largest label + 1."""
    return int(labels.max(initial=-1)) + 1
