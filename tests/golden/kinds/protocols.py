"""Runners of the protocol goldens: IJB 1:1 and 1:N, flip fusion, TinyFace's DIR@FAR, error versus reject."""

from __future__ import annotations

from typing import Any

import numpy as np

from facex.eval import fusion, identification, ijb, quality, templates
from facex.eval.matching import match, match_scores
from facex.eval.verification import angular_distances
from tests.golden.case import Case


def flip_fusion(case: Case) -> dict[str, Any]:
    """AdaFace's fusions of two views; training's validation uses the first of them."""
    out = {}
    for name in case.params["methods"]:
        method = "pre_norm_vector_add" if name == "train_val" else name
        out[f"{name}_fused"], out[f"{name}_norm"] = fusion.fuse_views(
            case.inputs["embeddings"], case.inputs["norms"], method
        )
    return out


def ijb_protocol(case: Case) -> dict[str, Any]:
    """insightface's switches, MagFace's two forms, 1:N by gallery, and AdaFace's 1:N over both."""
    data = case.inputs
    faces, mirrored = data["feats_q"].astype(np.float32) / 10, data["flip_q"].astype(np.float32) / 10
    pairs, fars = (data["p1"], data["p2"], data["label"]), case.params["fars"]
    out: dict[str, Any] = {}
    for name, switch in case.params["variants"].items():
        pooled = templates.insightface_templates(
            faces,
            data["templates"],
            data["medias"],
            flipped=mirrored if switch["use_flip"] else None,
            detector_scores=data["face_scores"] if switch["use_detector_score"] else None,
            keep_norm=switch["use_norm"],
        )
        found = ijb.verify_templates(pooled, *pairs, fars=fars)
        out |= {f"{name}_scores": found.scores, f"f64_{name}_auc": found.auc, f"f64_{name}_tar": [*found.tar.values()]}
        if name == case.params["identification"]["variant"]:
            out |= {"f64_template_feats": pooled.features, "unique_templates": pooled.ids, **_one_to_n(case, pooled)}
    for name, switch in case.params["magface_variants"].items():
        weighted = bool(switch["magface_qlt"])
        pooled = templates.magface_templates(faces, data["templates"], data["medias"], magnitude_weighted=weighted)
        found = ijb.verify_templates(pooled, *pairs, score="angle", fars=fars)
        out |= {f"{name}_template_feats": pooled.features, f"{name}_scores": found.scores}
        out[f"f64_{name}_tar"] = [*found.tar.values()]
    return out


def _one_to_n(case: Case, pooled: templates.Templates) -> dict[str, Any]:
    data, one, both = case.inputs, case.params["identification"], case.params["adaface_identification"]
    probes, people = pooled.select(data["probes"]), data["probe_subjects"]
    galleries = {n: (pooled.select(data[f"gallery{n}"]), data[f"gallery{n}_subjects"]) for n in (1, 2)}
    out: dict[str, Any] = {}
    for n, (gallery, subjects) in galleries.items():
        found = identification.identify(match(probes, gallery, people, subjects), one["ranks"], data["fars_1n"])
        out |= {
            f"g{n}_top_counts": found.counts,
            f"f64_g{n}_thresholds": found.thresholds,
            f"f64_g{n}_tpir": found.tpir,
        }
    gallery, subjects = (np.concatenate(parts) for parts in zip(*galleries.values(), strict=True))
    found = identification.identify_single_mates(probes, gallery, people, subjects, both["ranks"], both["fars"])
    rows = np.stack([found.fars, found.recall, found.thresholds], 1)
    return {**out, "f64_adaface_topk": found.rates, "f64_adaface_far_recall_th": rows}


def identification_dir(case: Case) -> dict[str, Any]:
    """DIR@FAR on a matrix of scores; where one of its sides has length 1 the table is a row."""
    data = case.inputs
    distractor = case.params.get("distractor_label")
    found = match_scores(data["f64_scores"], data["labels_probe"], data["labels_gallery"], distractor=distractor)
    result = identification.dir_at_far(found, data["ranks"].tolist(), data["fars"].tolist())
    rates = result.rates.ravel() if 1 in result.rates.shape else result.rates
    return {"dirs": rates, "real_fars": result.measured_fars, "f64_thresholds": result.thresholds}


def quality_erc(case: Case) -> dict[str, Any]:
    """MagFace's error versus reject: nominal rate, missing entries omitted."""
    rows = case.inputs["features_q"].astype(np.float64) / 8
    worst = quality.pair_quality(np.linalg.norm(rows, axis=1))
    curve = quality.error_versus_reject(
        angular_distances(rows[0::2], rows[1::2]),
        case.inputs["issame"],
        worst,
        fmr=case.params["fmr"],
        nominal_fmr=case.params["nominal_fmr"],
        omit=True,
    )
    return {"f64_fnmr": curve.fnmr, "f64_rates": curve.rates, "f64_pair_quality": worst}


KINDS = {
    "magface/flip_fusion": flip_fusion,
    "magface/ijb": ijb_protocol,
    "magface/identification": identification_dir,
    "magface/quality_erc": quality_erc,
}
