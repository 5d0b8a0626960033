"""How JHMFR's outputs are compared: fingerprints, rows labelled by name, analytically zero rows, statistics of fresh
weights.

A runner returns whole tensors; what a file keeps of one (a fingerprint, some rows, a corner) is cut out here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.golden.case import Expected, Variant

KNOWN = {"is", "tol", "atol", "per", "rows", "skip_rows", "zero_rows", "row_tol", "nonfinite", "compare"}
ENDS, NUMBERS = 16, 37
ZERO = 1e-6  # of the largest value: how far an analytically zero row may stray
SETS = {"none_grad"}

Array = np.ndarray[Any, Any]
Answer = tuple[float, str | None]
# what a file keeps of an output: (the whole output, the file's arrays, the file's own array) -> the part
CUTS: dict[str, Callable[[Array, Mapping[str, Array], Array], Array]] = {
    "pred_head": lambda whole, arrays, ref: whole[:, : ref.shape[1]],
    "pred_token_mean": lambda whole, arrays, ref: whole.mean(-1),
    "pred_token_std": lambda whole, arrays, ref: whole.std(-1),
    "crap0": lambda whole, arrays, ref: whole[0][tuple(slice(n) for n in ref.shape)],
    "rec0": lambda whole, arrays, ref: whole[0][tuple(slice(n) for n in ref.shape)],
    "pe": lambda whole, arrays, ref: whole.reshape(-1, whole.shape[-1])[arrays["rows"].astype(int)],
    "features": lambda whole, arrays, ref: whole[tuple(slice(n) for n in ref.shape)],
    "out_rows": lambda whole, arrays, ref: whole[:, :, : ref.shape[2]],
    "out_grid": lambda whole, arrays, ref: whole[:, 100:180:8, 60:200:10],
}


def compare(name: str, variant: Variant, expected: Expected) -> Answer:
    """One output under the words of `_conventions`: worst error over what is allowed, and what is wrong."""
    spec, ref = expected.specs[name], expected.arrays[name]
    unknown = sorted(set(spec) - KNOWN)
    if unknown:
        return np.inf, f"comparison key {unknown[0]!r} is not implemented"
    got = variant.outputs[name]
    if spec.get("compare") == "init_stats":
        return fresh_weights(got, ref, expected.arrays, float(spec["tol"]))
    if spec.get("compare"):
        return np.inf, f"comparison {spec['compare']!r} is not implemented"
    if name in SETS:
        return _names(sorted(map(str, got)), sorted(map(str, ref.reshape(-1))))
    if isinstance(got, Mapping):
        return _by_name(name, got, ref, spec, expected)
    if "rows" in spec:
        return np.inf, f"rows are labelled by {spec['rows']!r}: a mapping by name is wanted"
    got = reduced(name, got, ref, expected.arrays)
    if got.shape != ref.shape:
        return np.inf, f"shape {got.shape}, expected {ref.shape}"
    if ref.dtype.kind in "US":
        return _names([str(v) for v in got.reshape(-1)], [str(v) for v in ref.reshape(-1)])
    return _numbers(got, ref, {**spec, "nonfinite": "replaced"} if variant.finite_only else spec, None)


def fingerprint(tensor: Any) -> Array:
    """Mean, population std, l2 norm, min, max (float64), then the first and the last 16 elements, zero padded."""
    flat = np.asarray(tensor).reshape(-1).astype(np.float64)
    ends = np.zeros(2 * ENDS)
    count = min(len(flat), ENDS)
    ends[:count] = flat[:count]
    # fewer than 16 elements stand at the start of both parts
    ends[ENDS : ENDS + count] = flat[len(flat) - count :]
    if not len(flat):
        return np.concatenate([np.zeros(NUMBERS - 2 * ENDS), ends])
    return np.concatenate([[flat.mean(), flat.std(), np.sqrt((flat * flat).sum()), flat.min(), flat.max()], ends])


def reduced(name: str, got: Any, ref: Array, arrays: Mapping[str, Array]) -> Array:
    """The part or the fingerprint of an output that the file holds."""
    if name in CUTS:
        return CUTS[name](np.asarray(got), arrays, ref)
    if (name == "fp" or name.endswith("_fp")) and ref.shape[-1] == NUMBERS:
        return fingerprint(got) if ref.ndim == 1 else np.array([fingerprint(part) for part in got])
    return np.asarray(got)


def fresh_weights(got: Mapping[str, Array], ref: Array, arrays: Mapping[str, Array], tol: float) -> Answer:
    """Freshly drawn weights against [mean, std, l2, min, max] of the official ones: the distribution, not the draw."""
    names, counts = [str(n) for n in arrays["names"]], arrays["numel"]
    if set(got) != set(names):
        return np.inf, f"names differ: {sorted(set(got) ^ set(names))[:5]}"
    worst = 0.0
    for name, row, count in zip(names, ref, counts, strict=True):
        ratio, problem = _distribution(np.asarray(got[name], np.float64), row, int(count), tol)
        if problem:
            return ratio, f"{name}: {problem}"
        worst = max(worst, ratio)
    return worst, None


def _distribution(got: Array, row: Array, count: int, tol: float) -> Answer:
    mean, std, _, low, high = (float(v) for v in row)
    if got.size != count:
        return np.inf, f"{got.size} elements, expected {count}"
    if std == 0:
        exact = bool((got == np.float32(mean)).all())
        return (0.0, None) if exact else (np.inf, f"not {mean:g} throughout")
    allowed = tol if count >= 10000 else max(tol, 4 / np.sqrt(count))
    ratio = abs(got.std() / std - 1) / allowed
    if ratio > 1:
        return ratio, f"std {got.std():.5g}, expected {std:.5g} within {allowed:.3g}"
    largest = max(abs(low), abs(high))
    # a uniform draw ends at sqrt(3) of its deviation, a normal one well beyond
    if count >= 10000 and largest < 1.75 * std:
        bound = abs(np.abs(got).max() / largest - 1) / tol
        if bound > 1:
            return bound, f"largest value {np.abs(got).max():.5g}, expected {largest:.5g}"
        ratio = max(ratio, bound)
    if abs(got.mean() - mean) > abs(mean) + 5 * std / np.sqrt(count) + 1e-9:
        return np.inf, f"mean {got.mean():.3g} is not 0"
    return ratio, None


def _by_name(name: str, got: Mapping[str, Any], ref: Array, spec: Mapping[str, Any], expected: Expected) -> Answer:
    """A table of rows labelled by the array that `rows` names."""
    labels = [str(label) for label in expected.arrays[spec["rows"]]]
    if set(got) != set(labels) or len(labels) != len(ref):
        return np.inf, f"rows differ: {sorted(set(got) ^ set(labels))[:6]}"
    table = [
        fingerprint(got[label]) if name.endswith("_fp") and ref.ndim == 2 else np.asarray(got[label])
        for label in labels
    ]
    return _numbers(np.array(table), ref, spec, labels)


def _numbers(got: Array, ref: Array, spec: Mapping[str, Any], labels: list[str] | None) -> Answer:
    if ref.size == 0:
        return 0.0, None
    got, ref = got.astype(np.float64), ref.astype(np.float64)
    finite = np.isfinite(ref)
    if spec.get("nonfinite") == "match":
        wrong = ~((got == ref) | (np.isnan(got) & np.isnan(ref)) | finite) | (finite & ~np.isfinite(got))
        if wrong.any():
            return np.inf, f"NaN or infinity at other places ({int(wrong.sum())})"
    elif not np.isfinite(got).all() or (not finite.all() and spec.get("nonfinite") != "replaced"):
        return np.inf, "NaN or infinity where numbers are wanted"
    magnitude = np.where(finite, np.abs(ref), 0.0)
    allowed = np.full(ref.shape, float(spec.get("atol") or 0.0))
    allowed += _tolerances(ref, spec, labels) * _scale(magnitude, spec)
    for i, label in enumerate(labels or []):
        if label in spec.get("zero_rows", ()):
            ref[i], allowed[i] = 0.0, ZERO * magnitude.max()
    error = np.where(finite & np.isfinite(got), np.abs(got - np.where(finite, ref, 0.0)), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / allowed)
    for i, label in enumerate(labels or []):
        if label in spec.get("skip_rows", ()):
            ratio[i] = 0.0
    worst = float(ratio.max())
    if worst <= 1.0:
        return worst, None
    at = np.unravel_index(int(np.argmax(ratio)), ref.shape)
    row = "" if labels is None else f" ({labels[at[0]]})"
    return worst, f"at {tuple(map(int, at))}{row}: {got[at]:.9g}, expected {ref[at]:.9g} within {allowed[at]:.3g}"


def _scale(magnitude: Array, spec: Mapping[str, Any]) -> Array:
    if spec.get("per") == "row":
        rows = magnitude.reshape(len(magnitude), -1).max(1)
        return np.broadcast_to(rows.reshape([-1] + [1] * (magnitude.ndim - 1)), magnitude.shape)
    return np.full(magnitude.shape, magnitude.max())


def _tolerances(ref: Array, spec: Mapping[str, Any], labels: list[str] | None) -> Array:
    own = np.full(ref.shape, float(spec.get("tol") or 0.0))
    for i, label in enumerate(labels or []):
        for pattern, tolerance in spec.get("row_tol", {}).items():
            if re.fullmatch(pattern, label):
                own[i] = tolerance
    return own


def _names(got: list[str], ref: list[str]) -> Answer:
    if got == ref:
        return 0.0, None
    strangers = sorted(set(got) ^ set(ref))
    return np.inf, f"{len(got)} entries, expected {len(ref)}; " + (f"{strangers[:5]}" if strangers else "another order")
