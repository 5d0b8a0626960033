"""Runner of the augmentation golden: AdaFace's three changes of one picture, with given draws."""

from __future__ import annotations

from typing import Any

from facex.data import augment
from facex.data.resample import CV2_KERNELS
from tests.golden.case import Case


def augmentation(case: Case) -> dict[str, Any]:
    """Each change on its own, from the numbers that AdaFace drew."""
    data, names = case.inputs, {flag: name for name, flag in CV2_KERNELS.items()}
    ratio, down, up = data["lowres_args"]
    return {
        "crop": augment.crop_on_black(data["image"], *data["crop_ijhw"].tolist()),
        "lowres": augment.low_resolution(data["image"], float(ratio), names[int(down)], names[int(up)]),
        "photometric": augment.photometric(
            data["image"], data["photometric_order"].tolist(), *data["photometric_factors"].tolist()
        ),
    }


KINDS = {"magface/augmentation": augmentation}
