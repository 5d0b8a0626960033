"""Goldens of data and evaluation: record files of both layouts, 1:1 verification, IJB templates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from facex.data.property import Property, write_property
from facex.data.recordio import RecordFile
from facex.data.sources.recordset import find_layout
from facex.data.writer import RecordWriter, pack_record
from facex.eval.ijb import verify_templates
from facex.eval.templates import insightface_templates
from facex.eval.verification import evaluate_pairs

CONVERTED_SIZE = 112  # what the official converter writes into `property`, whatever the pictures are


def verification(case: Any) -> dict[str, Any]:
    """The sum of both views, ten folds, and the mean length of the views."""
    views = [case.inputs[name].astype(np.float64) for name in ("emb", "emb_flip")]
    found = evaluate_pairs(
        views[0] + views[1], case.inputs["issame"], case.params["folds"], val_far=None, uneven_folds=True
    )
    return {
        "tpr_f64": found.tpr,
        "fpr_f64": found.fpr,
        "acc_f64": found.fold_accuracy,
        "thr_f64": found.thresholds,
        "mean_std_f64": np.array([found.accuracy, found.std]),
        "xnorm_f64": np.array([np.linalg.norm(np.concatenate(views), axis=1).mean()]),
    }


def ijb_template(case: Any) -> dict[str, Any]:
    """Templates and the 1:1 protocol."""
    p, data = case.params, case.inputs
    original, flipped = np.split(data["feats"], 2, axis=1)
    pooled = insightface_templates(
        original,
        data["templates"],
        data["medias"],
        flipped=flipped if p["use_flip"] else None,
        detector_scores=data["faceness"] if p["use_detector_score"] else None,
        keep_norm=not p["use_norm"],
    )
    found = verify_templates(pooled, data["p1"], data["p2"], data["label"], fars=p["fpr"])
    return {
        "template_feats": pooled.features,
        "unique_templates": pooled.ids,
        "score_f64": found.scores,
        "tpr_at_fpr_f64": 100 * np.array([*found.tar.values()]),
        "auc_f64": np.array([found.auc]),
    }


def rec_read(case: Any) -> dict[str, Any]:
    """Pictures and labels of a record file, and the same records written again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("rec", "idx"):
            (folder / f"train.{part}").write_bytes(case.inputs[part].tobytes())
        file = RecordFile(folder / "train.rec")
        keys = np.asarray(file.keys)[find_layout(file).positions]
        records = [file.unpack(int(key)) for key in keys]
        pictures = np.stack([file.image(int(key)) for key in keys])
        _check_order(case, pictures)
        labels = np.array([header.label[0] for header, _ in records], np.float32)
        found = {"imdecode": pictures, "labels": labels, "flags": np.array([h.flag for h, _ in records])}
        if case.params["layout"] == "img2rec":
            write_property(
                folder / "property", Property(int(labels.max()) + 1, CONVERTED_SIZE, CONVERTED_SIZE), len(keys)
            )
            found["property"] = np.frombuffer((folder / "property").read_bytes(), np.uint8)
        else:
            header, _ = file.unpack(0)
            found |= {"seq": keys, "header0": header.label, "flag0": np.array([header.flag])}
        return found | _written_again(file, folder)


def _check_order(case: Any, pictures: np.ndarray) -> None:
    """The channel order that the case says is the one in which the pictures are nearer to their source."""
    source = case.inputs["source_rgb"].astype(int)
    straight, swapped = (np.abs(p.astype(int) - source).mean() for p in (pictures, pictures[..., ::-1]))
    if (swapped < straight) != (case.params["channel_order"] == "swapped"):
        raise AssertionError(f"mean errors {straight:.1f} and {swapped:.1f} (reversed) contradict the channel order")


def _written_again(file: RecordFile, folder: Path) -> dict[str, Any]:
    with RecordWriter(folder / "again") as writer:
        order = np.argsort(file.offsets)
        for key in np.asarray(file.keys)[order].tolist():
            header, payload = file.unpack(key)
            label = header.label if header.flag else float(header.label[0])
            writer.write(key, pack_record(label, payload, header.id, header.id2))
    return {part: np.frombuffer((folder / f"again.{part}").read_bytes(), np.uint8) for part in ("rec", "idx")}


KINDS = {
    "lafs/verification": verification,
    "lafs/ijb_template": ijb_template,
    "lafs/rec_read": rec_read,
}
