"""msml/pipeline and msml/recipes: training samples from seeds, and the settings that a config.yaml stands for."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

from facex_msml.official import Face, OfficialSamples, official_occluders
from facex_msml.recipes import derive, official_config, settings


def run_pipeline(case: Any) -> dict[str, Any]:
    """Every call's picture, clean picture, mask and label, under the file's names."""
    params = case.params
    assets = {name: [[case.inputs[key]] for key in keys] for name, keys in params["assets_per_transform"].items()}
    samples = OfficialSamples(
        params["policy"],
        tuple(params["out_size"]),
        params["gray"],
        params["use_norm"],
        official_occluders(assets.get("glasslist"), assets.get("scarf"), assets.get("object")),
    )
    faces = _faces(case)
    outputs: dict[str, Any] = {}
    kinds = []
    for call in params["calls"]:
        sample = samples(faces[call["index"]], np.random.RandomState(call["seed"]))
        key = call["key"]
        outputs |= {f"{key}_img_sub": sample.img.numpy(), f"{key}_img__fp": sample.img.numpy()}
        outputs |= {f"{key}_ori_sub": sample.ori.numpy(), f"{key}_ori__fp": sample.ori.numpy()}
        outputs |= {f"{key}_mask": sample.mask.numpy(), f"{key}_label": np.array(sample.label)}
        shapes = f"{tuple(sample.img.shape)}|{tuple(sample.mask.shape)}"
        kinds.append(f"{sample.img.dtype}|{sample.mask.dtype}|{shapes}")
    return {**outputs, "info": np.array(kinds)}


def _faces(case: Any) -> list[Face]:
    """The records with their offline-masked twins."""
    twins = {twin["index"]: twin for twin in case.params["offline_mask"]}
    faces = []
    for number, (image, label) in enumerate(zip(case.inputs["faces"], case.params["labels"], strict=True)):
        twin = twins[number]
        rows, columns = slice(*twin["rows"]), slice(*twin["cols"])
        masked, mask = image.copy(), np.full(image.shape[:2], twin["mask_outside"], np.uint8)
        masked[rows, columns], mask[rows, columns] = twin["face_fill"], twin["mask_inside"]
        faces.append(Face(image, label, masked, mask))
    return faces


def run_recipes(case: Any) -> dict[str, Any]:
    """Settings and learning-rate factors of every config."""
    outputs: dict[str, Any] = {}
    for each in case.params["cases"]:
        number = each["index"]
        stored = ast.literal_eval(str(case.inputs[f"case{number}"]))
        config = official_config({**case.params["base"], **stored})
        recipe = derive(config)
        outputs[f"info{number}"] = settings(config)
        outputs[f"lr_factor{number}_f64"] = np.array([recipe.lr_factor(e) for e in range(recipe.num_epoch)])
    return outputs


KINDS = {"msml/pipeline": run_pipeline, "msml/recipes": run_recipes}
