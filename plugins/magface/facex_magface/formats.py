"""Official MagFace checkpoints: how the names of both trainers map to the backbone's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from facex.methods import Format
from facex.methods.formats import prefixed_format
from facex.models.iresnet import architecture_of


def magface_formats(keys: Sequence[str]) -> list[Format]:
    """The layouts for a backbone with these names: run/trainer.py, run/trainer_dist.py, inference/network_inf.py."""
    return [
        prefixed_format(
            "magface-dataparallel",
            "backbone",
            keys,
            "module.features.",
            "module.fc.weight",
            "DC",
            "trainer.py: fc [D, C]",
        ),
        prefixed_format(
            "magface-split-fc",
            *("backbone", keys, "features.module.", "parallel_fc.weight", "CD", "trainer_dist.py: parallel_fc [C, D]"),
        ),
        prefixed_format(
            "magface-inference", "backbone", keys, "features.", describe="network_inf.py: no class centres"
        ),
    ]


def recognise_official(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Constructor arguments of MagFace for an official file; None if the names are not MagFace's."""
    for prefix in ("module.features.", "features.module.", "features."):
        found = architecture_of(state, prefix)
        if found is not None:
            return {"backbone": f"iresnet{found[0]}", "embedding_size": found[1]}
    return None
