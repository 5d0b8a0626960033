"""Goldens of FMA-3D: the renderer, the mask's texture with recorded draws, the map of landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np

from facex.data.masking_fma import landmarks_106_to_68, masked_texture, render_mesh
from tests.golden.case import Case


class Recorded:
    """A generator that says recorded draws again, in order."""

    def __init__(self, draws: np.ndarray) -> None:
        self.left = [float(v) for v in draws if not np.isnan(v)]

    def rand(self) -> float:
        return self.left.pop(0)

    def randint(self, high: int) -> int:
        value = self.left.pop(0)
        if value != int(value) or not 0 <= value < high:
            raise AssertionError(f"the case has {value} where a whole number below {high} is drawn")
        return int(value)


def fma_render(case: Case) -> dict[str, Any]:
    """The mesh, and which pixels it covers."""
    p, given = case.params, case.inputs
    image, covered = render_mesh(given["vertices"], given["colors"], given["triangles"], p["h"], p["w"])
    return {"image": image, "mask": covered}


def fma_texture(case: Case) -> dict[str, Any]:
    """The texture under the mask, once per row of draws; every draw must be used."""
    p, size = case.params, case.params["size"]
    texture, template = (_texture(case, p[name]) for name in ("texture", "template"))
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    alpha = np.clip(1.6 - np.hypot((x - 120) / 60, (y - 170) / 45), 0, 1) * ((x < 200) & (y > 110))
    outputs = []
    for row in case.inputs["draws"]:
        recorded = Recorded(row)
        outputs.append(masked_texture(texture, template, alpha, recorded if p["aug"] else None))
        if recorded.left and p["aug"]:
            raise AssertionError(f"{len(recorded.left)} recorded draws were not used")
    return {"out_fp": outputs, "out_grid": np.stack(outputs)}


def _texture(case: Case, rule: dict[str, Any]) -> np.ndarray:
    spec = rule["images"]
    image = case.images(spec["n"], spec["size"], spec["seed"])[0]
    return (image.astype(np.float64).transpose(1, 2, 0) + 1) / 2


def landmarks(case: Case) -> dict[str, Any]:
    """106 points to 68."""
    return {"out": landmarks_106_to_68(case.inputs["landmarks"])}


KINDS = {"jhmfr/fma_render": fma_render, "jhmfr/fma_texture": fma_texture, "jhmfr/landmarks_106_to_68": landmarks}
