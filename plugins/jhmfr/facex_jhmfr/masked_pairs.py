"""Verification pairs under masks: a set of bare faces as H-M (the second face masked) and M-M (both) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from facex.data.imageio import encode_png
from facex.data.masking import FaceMask
from facex.data.verification import VerificationSet
from facex.errors import ConfigError, VerificationSetError

Condition = Literal["H-H", "H-M", "M-M"]
CONDITIONS: tuple[Condition, ...] = ("H-H", "H-M", "M-M")
_SIDES = {"H-H": (False, False), "H-M": (False, True), "M-M": (True, True)}


def masked_pairs(
    one: VerificationSet, condition: Condition, seed: int = 0, masks: FaceMask | None = None
) -> VerificationSet:
    """The pairs of `one`, aligned 112 x 112 crops, with masks drawn on the sides that `condition` names, and flags.

    A picture's mask is drawn from (seed, its number in the set) alone, so the second pictures of H-M and of M-M are
    the same. Pictures stay as they are encoded where there is no mask, masked ones become PNG. The name gets the
    condition as suffix: `lfw-H-M`.

    Raises:
        ConfigError: an unknown condition. VerificationSetError: a picture that does not decode, or a set that has masks
            already.
    """
    if condition not in _SIDES:
        raise ConfigError(f"a condition is one of {', '.join(CONDITIONS)}, not {condition!r}")
    if one.flags is not None and one.flags.any():
        raise VerificationSetError(f"{one.path or one.name}: some pictures are flagged as masked already")
    masks = masks or FaceMask()
    flags = np.tile(np.array(_SIDES[condition]), len(one))
    entries = list(one.entries)
    for index in np.flatnonzero(flags):
        entries[index] = masked_picture(one, int(index), seed, masks)
    return replace(one, entries=entries, name=f"{one.name}-{condition}", flags=flags)


def by_conditions(sets: Sequence[VerificationSet], seed: int = 0) -> list[VerificationSet]:
    """Every set under every condition, in the order H-H, H-M, M-M."""
    masks = FaceMask()
    return [masked_pairs(one, condition, seed, masks) for one in sets for condition in CONDITIONS]


def masked_picture(one: VerificationSet, index: int, seed: int, masks: FaceMask) -> bytes:
    """PNG of a picture of `one` with a mask."""
    image = one.decode("rgb", start=index, stop=index + 1)[0]
    return encode_png(masks.draw(image, np.random.RandomState([seed, index]))[0])
