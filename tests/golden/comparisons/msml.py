"""Comparison of MSML's golden cases: slices, fingerprints, tables of rows, packed bits, literals, rasteriser mismatch.

A runner returns what an output is made of (the whole array; for a table of rows a mapping from name to array or None;
for a literal a dict) under the output's name; what the golden file keeps of it is computed here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from tests.golden.case import Expected, Variant
from tests.golden.compare import compare as compare_arrays

# Keys that say which output it is, and nothing about how it is compared.
LABELS = {"is", "mode", "of", "stage", "step", "case", "call", "transform", "protocol", "flip", "activation", "arith"}
RULES = {"tol", "slice", "reduce", "names", "nan_rows"}
RULES |= {"tol_parts", "per_row_tol", "mismatch", "mismatch_if", "parse", "ignore_keys"}
OTHER_RASTERISER = "polygon rasteriser other than opencv 5"
# An output of this name tells which rasteriser a runner's product used; without it OpenCV's is assumed.
RASTERISER = "polygon_rasteriser"
LITERAL_TOL = 1e-9

Judgement = tuple[float, str | None]


def compare(name: str, variant: Variant, expected: Expected) -> Judgement:
    """The worst error relative to what is allowed, and what is wrong (None: nothing)."""
    spec, ref, got = expected.specs[name], expected.arrays[name], variant.outputs[name]
    unknown = set(spec) - LABELS - RULES
    if unknown:
        return np.inf, f"comparison key {sorted(unknown)[0]!r} is not implemented"
    if spec.get("parse"):
        return _literal(got, ref, spec)
    loose = _mismatch_holds(spec, variant)
    reduce = spec.get("reduce")
    if reduce == "rows":
        return _rows(got, ref, spec, expected)
    got = _sliced(np.asarray(got), spec.get("slice"))
    if reduce == "fp":
        return (0.0, None) if loose else _fingerprint(got, ref, spec)
    if reduce == "bits":
        return _bits(got, ref, spec, loose)
    if reduce is not None:
        return np.inf, f"reduction {reduce!r} is not implemented"
    if loose:
        return _pixels(got, ref, spec)
    return compare_arrays(got, ref, {"tol": spec["tol"]}, variant.finite_only)


def fingerprint(array: np.ndarray) -> np.ndarray:
    """Mean, population deviation, L2 norm, extremes, and up to 64 values spread over the flattened array; float64."""
    flat = np.asarray(array).astype(np.float64).ravel()
    head = [flat.mean(), flat.std(), np.linalg.norm(flat), flat.min(), flat.max()]
    return np.concatenate([head, flat[_spread(flat.size, 64)]])


def row(array: np.ndarray | None) -> np.ndarray:
    """L2 norm, sum and up to 8 values spread over the flattened array, zero padded to 10; NaN for None."""
    if array is None:
        return np.full(10, np.nan)
    flat = np.asarray(array).astype(np.float64).ravel()
    out = np.zeros(10)
    out[:2] = np.linalg.norm(flat), flat.sum()
    chosen = flat[_spread(flat.size, 8)]
    out[2 : 2 + len(chosen)] = chosen
    return out


def _spread(size: int, count: int) -> np.ndarray:
    return np.linspace(0, size - 1, min(count, size)).astype(np.int64)


def _sliced(array: np.ndarray, ranges: list[list[int | None]] | None) -> np.ndarray:
    return array if ranges is None else array[tuple(slice(*r) for r in ranges)]


def _fingerprint(got: np.ndarray, ref: np.ndarray, spec: dict[str, Any]) -> Judgement:
    if got.size == 0:
        return np.inf, "an empty array has no fingerprint"
    found = fingerprint(got)
    judgements = [compare_arrays(found, ref, {"tol": spec["tol"]})]
    if spec.get("tol_parts") and found.shape == ref.shape:
        for part, tol in zip((slice(0, 2), slice(2, 3), slice(3, None)), spec["tol_parts"], strict=True):
            judgements.append(compare_arrays(found[part], ref[part], {"tol": tol}))
    return _worst(judgements)


def _rows(got: Any, ref: np.ndarray, spec: dict[str, Any], expected: Expected) -> Judgement:
    if spec["names"] not in expected.arrays:
        return np.inf, f"the golden file holds no list of names {spec['names']!r}"
    names = [str(n) for n in expected.arrays[spec["names"]]]
    if not isinstance(got, Mapping):
        return np.inf, f"a table of rows needs a mapping from name to array, got {type(got).__name__}"
    if set(names) != set(got):
        return np.inf, f"names differ: {sorted(set(names) ^ set(got))[:6]}"
    found = np.stack([row(got[name]) for name in names])
    missing = np.isnan(found).all(1)
    wanted = int(np.isnan(ref).all(1).sum())
    if spec.get("nan_rows", wanted) != wanted:
        return np.inf, f"the golden table has {wanted} empty rows, its description says {spec['nan_rows']}"
    if int(missing.sum()) != wanted:
        return np.inf, f"{int(missing.sum())} rows without value, expected {wanted}"
    judgements = [compare_arrays(found, ref, {"tol": spec["tol"]})]
    if spec.get("per_row_tol") and found.shape == ref.shape:
        judgements.append(_per_row(found, ref, float(spec["per_row_tol"]), names))
    return _worst(judgements)


def _per_row(found: np.ndarray, ref: np.ndarray, tol: float, names: list[str]) -> Judgement:
    """Columns 0 and 2 to 9 against the row's norm, at least 1e-4 of the largest; column 1 is not compared."""
    there = ~np.isnan(ref).any(1)
    if not there.any():
        return 0.0, None
    scale = np.maximum(ref[:, 0], 1e-4 * ref[there, 0].max())
    error = np.abs(np.delete(found - ref, 1, axis=1)).max(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(there & (error > 0), error / (tol * scale), 0.0)
    at = int(np.argmax(ratio))
    if ratio[at] <= 1:
        return float(ratio[at]), None
    return float(ratio[at]), f"row {names[at]}: off by {error[at]:.3g}, within {tol * scale[at]:.3g} allowed"


def _bits(got: np.ndarray, ref: np.ndarray, spec: dict[str, Any], loose: bool) -> Judgement:
    if not np.isin(got, (0, 1)).all():
        return np.inf, "packed bits need an array of 0 and 1"
    packed = np.packbits(got.astype(np.uint8).ravel())
    if not loose or packed.shape != ref.shape:
        return compare_arrays(packed, ref, {"tol": 0})
    different = int(np.unpackbits(packed ^ ref).sum())
    return _fraction(different, got.size, spec["mismatch"])


def _pixels(got: np.ndarray, ref: np.ndarray, spec: dict[str, Any]) -> Judgement:
    """How many pixels differ in any channel by more than the tolerance."""
    if got.shape != ref.shape:
        return np.inf, f"shape {got.shape}, expected {ref.shape}"
    off = np.abs(got.astype(np.float64) - ref.astype(np.float64)) > spec["tol"] * np.abs(ref.astype(np.float64)).max()
    if off.ndim == 3:
        off = off.any(2 if off.shape[2] in (1, 3, 4) else 0)
    return _fraction(int(off.sum()), off.size, spec["mismatch"])


def _fraction(different: int, pixels: int, allowed: float) -> Judgement:
    ratio = different / pixels / allowed
    return ratio, None if ratio <= 1 else f"{different} of {pixels} pixels differ, at most {allowed:g} of them may"


def _mismatch_holds(spec: dict[str, Any], variant: Variant) -> bool:
    condition = spec.get("mismatch_if")
    if condition is None:
        return False
    if condition != OTHER_RASTERISER:
        raise ValueError(f"the condition {condition!r} is not implemented")
    default = f"opencv {cv2.__version__.split('.')[0]}"
    return bool(variant.outputs.get(RASTERISER, default) != "opencv 5")


def _literal(got: Any, ref: np.ndarray, spec: dict[str, Any]) -> Judgement:
    if spec["parse"] != "python_literal":
        return np.inf, f"parsing {spec['parse']!r} is not implemented"
    wanted = ast.literal_eval(str(ref.reshape(-1)[0]))
    if not isinstance(got, Mapping):
        got = ast.literal_eval(str(np.asarray(got).reshape(-1)[0]))
    ignored = set(spec.get("ignore_keys", []))
    keys = (set(wanted) | set(got)) - ignored
    wrong = [key for key in sorted(keys) if key not in wanted or key not in got or not _equal(got[key], wanted[key])]
    if not wrong:
        return 0.0, None
    key = wrong[0]
    return np.inf, f"{key}: {got.get(key, 'missing')!r}, expected {wanted.get(key, 'nothing')!r} ({len(wrong)} differ)"


def _equal(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        same = isinstance(got, list | tuple) and len(got) == len(wanted)
        return same and all(_equal(g, w) for g, w in zip(got, wanted, strict=True))
    if isinstance(wanted, dict):
        return isinstance(got, Mapping) and set(got) == set(wanted) and all(_equal(got[k], wanted[k]) for k in wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return type(got) is type(wanted) and bool(got == wanted)
    number = isinstance(got, int | float) and not isinstance(got, bool)
    return number and abs(got - wanted) <= LITERAL_TOL * max(1.0, abs(wanted))


def _worst(judgements: list[Judgement]) -> Judgement:
    """The first that fails, else the worst."""
    for judgement in judgements:
        if judgement[1] is not None:
            return judgement
    return max(judgements, key=lambda j: j[0])
