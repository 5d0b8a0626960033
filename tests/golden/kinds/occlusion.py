"""Runners of the occlusion protocol's goldens: verification rates, occluded inputs, pair lists of PKU-Masked-Face."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np

from facex.data.occluders import Block
from facex.eval.occlusion_input import OccludedView
from facex.eval.occlusion_metrics import equal_error_accuracy, tar_at_far_candidates
from facex.eval.pair_lists_pku import pku_lines
from facex.eval.verification import evaluate_pairs, normalize_rows
from tests.golden.case import Case


def verification(case: Case) -> dict[str, Any]:
    """The 10-fold rates, and MSML's own two from the cosines of the pairs."""
    p = case.params
    _supported(p, "thresholds", [{"start": 0, "stop": 4, "step": 0.01}])
    _supported(p, "val_thresholds", [{"start": 0, "stop": 4, "step": 0.001}])
    _supported(p, "shuffle", [False])
    _supported(p, "distance", ["squared L2"])
    rows, same = case.inputs[p["embeddings"]].astype(np.float64), case.inputs[p["same"]].astype(bool)
    found = evaluate_pairs(rows, same, p["folds"], val_far=p["far_target"], uneven_folds=True)
    unit = normalize_rows(rows)
    cosine = np.einsum("ij,ij->i", unit[0::2], unit[1::2])
    tars = tar_at_far_candidates(cosine, same, p["tar_fars"], last_zero=p["tar_last_always_zero"])
    return {
        "acc_folds_f64": found.fold_accuracy,
        "acc_mean": found.accuracy,
        "acc_std": found.std,
        "tpr_f64": found.tpr,
        "fpr_f64": found.fpr,
        "val": found.val,
        "val_std": found.val_std,
        "far": found.val_far,
        "eer_acc": equal_error_accuracy(cosine, same),
        "tar_at_far_f64": [tars[far] for far in p["tar_fars"]],
    }


def eval_input(case: Case) -> dict[str, Any]:
    """Originals, then mirrored views, from one generator."""
    p, out = case.params, {}
    _supported(p, "flip_occlusion", ["independent"])
    _supported(p, "reseed_before_each_protocol", [True])
    _supported(p, "order", [["all originals", "all flips"]])
    _supported(p, "normalised", [False])
    block = Block(p["block"]["lo"], p["block"]["hi"], p["block"]["fill"])
    for protocol in p["protocols"]:
        _supported({"protocol": protocol}, "protocol", ["BB", "NB"])
        view = OccludedView(block, protocol == "BB", tuple(p["out_size"]), p["gray"])
        generator = np.random.RandomState(p["seed"])
        for name, mirrored in (("orig", False), ("flip", True)):
            pictures, _ = view(case.inputs[p["images"]], lambda entry, own=generator: own, mirrored=mirrored)
            planes = pictures[:, None] if p["gray"] else pictures.transpose(0, 3, 1, 2)
            out[f"{protocol}_{name}_sub"] = out[f"{protocol}_{name}__fp"] = planes.astype(np.float32) / np.float32(255)
    return out


def pair_list(case: Case) -> dict[str, Any]:
    """The lines, with pictures that exist as the case's rule says."""
    p = case.params
    rule, name = p["exists"], re.compile(r"/(\d+)_([01])/(\d+)_\d+\.\w+$")

    def exists(path: str) -> bool:
        found = name.search(path)
        if found is None:
            raise AssertionError(f"not a path of the list: {path}")
        i, mk, j = map(int, found.groups())
        return (rule["i"] * i + rule["j"] * j + rule["mk"] * mk) % rule["mod"] < rule["below"]

    lines = pku_lines(
        p["pairs"],
        random.Random(p["random_seed"]),
        exists,
        identities=p["identities"],
        images=p["images_per_identity"],
        folder=p["folder"],
        poses=p["pose_suffixes"],
    )
    return {"lines": np.array(lines)}


def _supported(params: dict[str, Any], name: str, known: list[Any]) -> None:
    """A setting that the product does not have must not be passed over."""
    assert params.get(name, known[0]) in known, f"{name} {params[name]!r} is not supported"


KINDS = {
    "msml/verification": verification,
    "msml/eval_input": eval_input,
    "msml/pair_list": pair_list,
}
