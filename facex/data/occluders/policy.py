"""Which occluders there are, and how often a policy takes each."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence

from facex.data.occluders.assets import load_folder
from facex.data.occluders.base import Occluder
from facex.entrypoints import nearest
from facex.errors import ConfigError

# Name -> its class. The place in this table is the value of the field "occluder": new ones go to the end.
_CLASSES = {
    "none": "facex.data.occluders.base:NoOcclusion",
    "rectangle": "facex.data.occluders.shapes:Rectangle",
    "ellipse": "facex.data.occluders.shapes:Ellipse",
    "polygon": "facex.data.occluders.shapes:Polygon",
    "glasses": "facex.data.occluders.paste:Glasses",
    "scarf": "facex.data.occluders.paste:Scarf",
    "object": "facex.data.occluders.paste:RealObject",
    "hand": "facex.data.occluders.blend:Hand",
    "texture": "facex.data.occluders.blend:Texture",
    "block": "facex.data.occluders.block:Block",
    "mask": "facex.data.masking.occluder:FaceMask",
}
OCCLUDERS: tuple[str, ...] = tuple(_CLASSES)
"""Names of the occluders; the field "occluder" holds places in this tuple."""
WITH_ASSETS = ("glasses", "scarf", "object", "hand", "texture", "mask")
"""Occluders that take pictures of one's own."""

_SIX = ("rectangle", "ellipse", "polygon", "glasses", "scarf", "object")
POLICIES: dict[str, dict[str, float]] = {
    # MSML on MS1M: a face mask with 0.2; else uniform over six occluders and none.
    "ms1m": {"mask": 0.2, **{name: 0.8 / 7 for name in _SIX}},
    # MSML on CASIA-WebFace: a face mask with 0.2; else an occluder every second time.
    "casia": {"mask": 0.2, **{name: 0.4 / 6 for name in _SIX}},
    # Only what people wear or hold.
    "realistic": {"mask": 0.2, "glasses": 0.15, "scarf": 0.1, "hand": 0.1, "object": 0.1},
    # Every occluder equally often, and an untouched picture as often as one of them.
    "uniform": {name: 1 / len(_CLASSES) for name in _CLASSES if name != "none"},
}


def check_policy(policy: str | Mapping[str, float]) -> dict[str, float]:
    """Probability by occluder, "none" (what is left to 1) included, in the order of `OCCLUDERS`.

    `policy` is a name in `POLICIES` or a mapping. Raises ConfigError for an unknown name, with the nearest known ones,
    for a probability outside 0..1, and for a sum above 1.
    """
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise ConfigError(f"there is no occlusion policy {policy!r}{nearest(policy, POLICIES)}")
        policy = POLICIES[policy]
    for name, share in policy.items():
        if name not in _CLASSES:
            raise ConfigError(f"there is no occluder {name!r}{nearest(name, _CLASSES)}")
        if not (math.isfinite(share) and 0 <= share <= 1):
            raise ConfigError(f"occluder {name!r}: {share} is no probability, it must lie in 0..1")
    total = sum(policy.values())
    if total > 1 + 1e-6 or ("none" in policy and total < 1 - 1e-6):
        raise ConfigError(
            f"the probabilities of the occluders sum to {total:g}: their sum must not be above 1, "
            "and with 'none' among them it must be 1 (leave 'none' out, it gets the rest)"
        )
    shares = {name: float(policy[name]) for name in OCCLUDERS if name in policy and name != "none"}
    return {"none": max(1 - sum(shares.values()), 0.0), **shares}


def make_occluder(
    name: str, folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None
) -> Occluder:
    """The occluder `name`, made of the RGBA PNG files of a folder, or of several of which one is drawn first; unset: of
    the built-in pictures. Raises ConfigError for an unknown name or one that takes no pictures, DataError as
    `load_folder`."""
    if name not in _CLASSES:
        raise ConfigError(f"there is no occluder {name!r}{nearest(name, _CLASSES)}")
    module, kind = _CLASSES[name].split(":")
    made: type[Occluder] = getattr(importlib.import_module(module), kind)
    if folders is None:
        return made()
    if name not in WITH_ASSETS:
        raise ConfigError(f"occluder {name!r} takes no pictures; those that do are {', '.join(WITH_ASSETS)}")
    paths = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
    return made([load_folder(path) for path in paths])  # type: ignore[call-arg]
