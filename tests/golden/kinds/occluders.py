"""Runners of the occluder goldens: the shapes, the pasted assets and the Gaussian map, seeded as the cases say.

MSML's masks are 255 where the face is clean and 0 where it is occluded; ours are the reverse.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facex.data.occluders import (
    Block,
    Ellipse,
    Glasses,
    NoOcclusion,
    Occluder,
    Polygon,
    RealObject,
    Rectangle,
    Scarf,
    gauss_map,
    load_folder,
)
from tests.golden.case import Case

SHAPES = {"none": NoOcclusion, "rect": Rectangle, "ellipse": Ellipse, "polygon": Polygon}
ASSETS = {"glasses": Glasses, "glasslist": Glasses, "scarf": Scarf, "object": RealObject}


def outputs(case: Case, occluders: dict[str, Occluder]) -> dict[str, Any]:
    """Picture and mask of every call, each with a generator seeded anew; fingerprinted ones under their own name."""
    image, out = case.inputs[case.params["image"]], {}
    for call in case.params["calls"]:
        key = call["key"]
        covered, mask = occluders[key].draw(image, np.random.RandomState(call["seed"]))
        clean = 255 - mask
        out[f"{key}_img"] = out[f"{key}_img__fp"] = covered
        out[f"{key}_mask"] = clean == 255
        out[f"{key}_mask_other"] = np.unique(clean[(clean != 0) & (clean != 255)])
    return out


def aug_geometric(case: Case) -> dict[str, Any]:
    """The shapes and the block."""

    def make(call: dict[str, Any]) -> Occluder:
        if call["transform"] == "block":
            return Block(call["lo"], call["hi"], call["fill"])
        return SHAPES[call["transform"]]()

    return outputs(case, {call["key"]: make(call) for call in case.params["calls"]})


def aug_assets(case: Case) -> dict[str, Any]:
    """What is pasted, read from folders of PNG files as a user's would be."""
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        for name, assets in case.params["assets_per_transform"].items():
            folders = []
            for asset in assets:
                folder = Path(root, asset)
                folder.mkdir(exist_ok=True)
                cv2.imwrite(str(folder / "asset.png"), cv2.cvtColor(case.inputs[asset], cv2.COLOR_RGBA2BGRA))
                folders.append(load_folder(folder))
            made[name] = ASSETS[name](folders)
    out = outputs(case, {call["key"]: made[call["transform"]] for call in case.params["calls"]})
    for name, occluder in made.items():
        out[f"preload_sub_{name}"] = out[f"preload_{name}__fp"] = occluder.assets[0][0]
    return out


def gaussian(case: Case) -> dict[str, Any]:
    """The map of light."""
    out: dict[str, Any] = {}
    for c in case.params["cases"]:
        box = c["left"], c["top"], c["right"], c["bottom"]
        rng = np.random.RandomState(c["seed"])
        values = gauss_map(rng, box, c["center_x"], c["center_y"], c["radius"], c["metric"])
        out[f"map{c['index']}"] = out[f"map{c['index']}__fp"] = values
    return out


KINDS = {"msml/aug_geometric": aug_geometric, "msml/aug_assets": aug_assets, "msml/gauss_map": gaussian}
