"""Runners of the verification goldens: `.bin` files with their pictures, hostile files, 1:1 protocols on arrays."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from facex.data.native import native
from facex.data.verification import load_bin
from facex.errors import FacexError
from facex.eval.verification import evaluate_pairs, normalize_rows
from tests.golden.case import Case

MAX_MEGABYTES, MAX_SECONDS = 200, 1.0


def verification(case: Case) -> dict[str, Any]:
    """insightface's protocol, with VAL@FAR and PCA where the case asks for them."""
    val = case.params.get("val")
    embeddings = normalize_rows(case.inputs["features_q"].astype(np.float64))
    result = evaluate_pairs(
        embeddings,
        case.inputs["issame"],
        int(case.inputs["nrof_folds"]),
        pca=int(case.inputs["pca"]),
        val_far=val["far_target"] if val else None,
        uneven_folds=True,
    )
    return {
        "f64_embeddings_first": embeddings[:4],
        "f64_best_thresholds": result.thresholds,
        "f64_val": result.val,
        "f64_val_std": result.val_std,
        "f64_far": result.val_far,
        **_rates(result),
    }


def verification_magface(case: Case) -> dict[str, Any]:
    """MagFace's protocol: the training folds' mean subtracted, angular distance."""
    features = case.inputs["features_q"].astype(np.float64) + 0.5
    folds = int(case.inputs["nrof_folds"])
    return _rates(
        evaluate_pairs(features, case.inputs["issame"], folds, protocol="magface", val_far=None, uneven_folds=True)
    )


def _rates(result: Any) -> dict[str, Any]:
    return {
        "f64_tpr": result.tpr,
        "f64_fpr": result.fpr,
        "f64_accuracy": result.fold_accuracy,
        "f64_mean": result.accuracy,
        "f64_std": result.std,
    }


def data_bin(case: Case) -> dict[str, Any]:
    """A `.bin` given as bytes: labels and decoded pictures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.bin"
        path.write_bytes(case.inputs["bin_bytes"].tobytes())
        loaded = load_bin(path)
        return {"issame": loaded.issame, "images": loaded.decode("rgb", size=case.params.get("resize_short"))}


def expect(case: Case) -> None:
    """A `.bin` file against its expect.npz: labels, every entry's bytes, every decoded picture."""
    loaded, want = load_bin(case.path), case.expect
    assert np.array_equal(loaded.issame, want["issame"]), "pair labels differ"
    assert [len(e) for e in loaded.entries] == want["entry_len"].tolist(), "lengths of entries differ"
    images = loaded.decode("rgb", size=None)
    for i, (entry, image) in enumerate(zip(loaded.entries, images, strict=True)):
        assert hashlib.sha256(entry).digest() == want["entry_sha256"][i].tobytes(), f"entry {i}: bytes differ"
        assert np.allclose(image.mean((0, 1)), want["rgb_mean"][i], atol=1e-3), f"entry {i}: mean colour differs"
        assert hashlib.sha256(image.tobytes()).digest() == want["rgb_sha256"][i].tobytes(), f"entry {i}: pixels differ"


def hostile(case: Case) -> None:
    """A hostile file fails where and as its row says, fast, small, and without running anything."""
    path, want = case.path.resolve(), case.expect["expect"]
    with contextlib.suppress(FacexError):
        native()  # loading the extension is not the file's doing
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        stage, message = _stages(path)
        assert not (Path(folder) / "PWNED").exists(), "the file ran code"
    seconds = time.process_time() - start
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert seconds < MAX_SECONDS, f"took {seconds:.1f} s"
    assert megabytes < MAX_MEGABYTES, f"took {megabytes:.0f} MB"
    if message is None:
        assert want.get("or_clean"), f"nothing was raised, expected {want['raises']} at {want['at']}"
        return
    assert stage == want["at"], f"raised at {stage}, expected at {want['at']}: {message}"
    assert any(text.lower() in message.lower() for text in want["raises"]), f"raised {message!r}, not {want['raises']}"


def _stages(path: Path) -> tuple[str, str | None]:
    """(the stage that raised, its message) or (the last stage, None)."""
    stage = "load"
    try:
        loaded = load_bin(path)
        stage = "decode"
        images = loaded.decode()
        stage = "evaluate"
        evaluate_pairs(images[:, ::8, ::8].reshape(len(images), -1), loaded.issame)
    except FacexError as error:
        return stage, str(error)
    return stage, None


KINDS = {
    "magface/verification": verification,
    "magface/verification_magface": verification_magface,
    "magface/data_bin": data_bin,
    "verification/expect": expect,
    "verification/hostile": hostile,
}
