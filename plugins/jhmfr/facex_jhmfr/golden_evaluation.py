"""Golden cases of evaluation and data: folds, the mirrored view, arrays and files, pair lists, masked copies."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facex.data.imageio import encode_png
from facex.data.transforms import HorizontalFlip
from facex.errors import VerificationSetError
from facex.eval.verification import PairResult, evaluate_pairs
from facex.files import atomic_path
from facex.methods import Batch, InputSpec
from facex_jhmfr.finetune import JHMFR
from facex_jhmfr.golden_networks import fill, pictures
from facex_jhmfr.golden_training import method_of
from facex_jhmfr.masked_copies import MaskedCopies
from facex_jhmfr.pairs import Pair, parse_pairs
from facex_jhmfr.protocol import Protocol, embed_inputs, flip_8bit, load_input, verify_files

KINDS_OF_SETS = {0: "holistic", 1: "smfrd", 2: "rmfvd"}


def run_verification(case: Any) -> dict[str, Any]:
    """Accuracy over folds, for vectors of unit length."""
    p = case.params
    return _rates(_folds(case.inputs["embeddings"], case.inputs["issame"], p["folds"], p["pca"]))


def _folds(rows: np.ndarray, same: np.ndarray, folds: int, pca: int = 0) -> PairResult:
    return evaluate_pairs(rows.astype(np.float64), same, folds, pca=pca, val_far=None, uneven_folds=True)


def _rates(found: PairResult) -> dict[str, Any]:
    return {
        "accuracy": found.fold_accuracy,
        "best_thresholds": found.thresholds,
        "tpr": found.tpr,
        "fpr": found.fpr,
        "mean_accuracy": np.array(found.accuracy),
    }


def run_flip(case: Any) -> dict[str, Any]:
    """The mirrored view through 8 bits."""
    x = pictures(case, case.params["images"])
    out = flip_8bit(x)
    difference = (out - x.flip(3)).abs().mean()
    return {
        "x_fp": x.numpy(),
        "out_fp": out.numpy(),
        "out_rows": out.numpy(),
        "mean_abs_diff_to_plain_flip": difference,
    }


def run_array(case: Any) -> dict[str, Any]:
    """Verification of pairs given as arrays."""
    p = case.params
    method = _filled(case)
    x = case.images(p["images"]["n"], p["images"]["size"], p["images"]["seed"])
    rule = p["same_pair_rule"]
    for pair in range(0, p["pairs"], 2):
        spec = rule["noise_images"]
        noise = case.images(spec["n"], spec["size"], spec["seed"] * 50 + pair)[0]
        x[2 * pair + 1] = np.clip(x[2 * pair] + np.float32(rule["noise_scale"]) * noise, *rule["clip"])
    flip: Any = "8bit" if p["flip_test"] else "none"
    rows = embed_inputs(method, method.networks(), torch.from_numpy(x), None, flip, p["batch_size"])
    found = _folds(rows, case.inputs["issame"], p["folds"], p["pca"])
    threshold = np.array(found.thresholds.mean())
    return {"features": rows, "feature_fp": rows, "accuracy": np.array(found.accuracy), "threshold": threshold}


def run_files(case: Any) -> dict[str, Any]:
    """Verification of pairs of files."""
    p, names = case.params, [str(n) for n in case.inputs["files"]]
    method = _filled(case)
    pairs = [Pair(str(a), str(b), str(same) == "1") for a, b, same in case.inputs["pairs"]]
    kind: Any = KINDS_OF_SETS[p["mask_type"]]
    rule: Any = p["mask_flag"]
    norm: Any = "eval" if p["normalisation"]["std"] == 128 else "train"
    protocol = Protocol(p["folds"], norm, "tensor" if p["flip_test"] else "none", rule, p["batch_size"])
    with tempfile.TemporaryDirectory() as folder:
        for name, image in zip(names, _copied(_uint8(case, p["images"])), strict=True):
            _write(Path(folder) / name, image)
        everyone = [Pair(name, name, True) for name in names]
        inputs = load_input([Path(folder) / name for name in names], norm, method.input)
        found = verify_files(method, method.networks(), folder, pairs, kind, protocol)
        every = verify_files(method, method.networks(), folder, everyone, kind, protocol)
    return {
        "flags": every.flags.astype(np.int64),
        "input_fp": inputs.numpy(),
        "features": every.vectors,
        "accuracy": np.array(found.pairs.accuracy),
    }


def run_parsers(case: Any) -> dict[str, Any]:
    """Every pair list, and one of an unknown data set."""
    p, found = case.params, dict[str, Any]()
    for text, sets in p["files"].items():
        for name in sets:
            pairs = parse_pairs(name, str(case.inputs[text]))
            found[f"pairs_{name}"] = np.array([(q.first, q.second, str(int(q.same))) for q in pairs])
    for name in ("calfw", "cplfw"):
        labels = [1 + i % 9 if name == "calfw" else 1 for i in range(3000)] + [0] * 3000
        text = "".join(f"x{i}_{side}.jpg {label}\n" for i, label in enumerate(labels) for side in "ab")
        pairs = parse_pairs(name.upper(), text)
        found[f"{name}_order"] = np.array([int(q.first[1:].split("_")[0]) for q in pairs])
        found[f"{name}_label"] = np.array([int(q.same) for q in pairs])
    try:
        parse_pairs(p["unknown_name"], "")
        found["unknown_is_none"] = np.array(False)
    except VerificationSetError:
        found["unknown_is_none"] = np.array(True)
    return found


class RecordedFlips:
    """The flips' draws, said again."""

    def __init__(self, draws: np.ndarray) -> None:
        self.draws = torch.from_numpy(draws)

    def uniform(self, stream: str) -> torch.Tensor:
        """The recorded numbers [b]."""
        return self.draws


def run_masked_folder(case: Any) -> dict[str, Any]:
    """A folder of faces with masked copies, read in the recorded order with the recorded draws."""
    p, names = case.params, [str(n) for n in case.inputs["rel"]]
    order, images = case.inputs["order"].astype(np.int64), _uint8(case, p["images"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / p["root_name"]
        for i, name in enumerate(names):
            _write(root / "imgs" / name, images[i])
            if i % 5 != 2:
                _write(root / "masked" / name, images[len(names) + i])
        data = _open_quietly(root, p["mask_ratio"])
        data.uniform = lambda epoch, indices: case.inputs["mask_draw"]
        fields = data.allocate(len(order))
        data.read_in_epoch(0, order, fields)
    count = torch.arange(len(order))
    batch = Batch(fields, dict(data.kinds), data.color, count, count)
    flips: Any = RecordedFlips(case.inputs["flip_draw"])
    batch = HorizontalFlip(p["flip_probability"])(batch, flips)
    tensors = InputSpec().to_tensor(batch["image"], batch.color)
    return {
        "num_classes": np.array(data.num_classes),
        "ismask": batch["flag"].long().numpy(),
        "target": batch["label"].numpy(),
        "tensor_fp": tensors.numpy(),
    }


def _open_quietly(root: Path, share: float) -> MaskedCopies:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some copies are missing is the case's point
        return MaskedCopies(root, masked_faces=share)


def _filled(case: Any) -> JHMFR:
    method = method_of(case.params["model"])
    assert isinstance(method, JHMFR)
    fill(case, method.backbone, case.params["fill"])
    return method


def _uint8(case: Any, spec: dict[str, Any]) -> np.ndarray:
    images = case.images(spec["n"], spec["size"], spec["seed"])
    return np.clip(np.rint((images + 1) * 127.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _copied(images: np.ndarray) -> np.ndarray:
    for i in range(1, len(images), 2):
        if (i // 2) % 2 == 0:
            images[i] = np.clip(images[i - 1].astype(int) + (i % 5) * 6, 0, 255)
    return images


def _write(path: Path, image: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(image, color="rgb"))


KINDS = {
    "jhmfr/verification": run_verification,
    "jhmfr/flip_8bit": run_flip,
    "jhmfr/verification_array": run_array,
    "jhmfr/verification_files": run_files,
    "jhmfr/pair_parsers": run_parsers,
    "jhmfr/data_masked_folder": run_masked_folder,
}
