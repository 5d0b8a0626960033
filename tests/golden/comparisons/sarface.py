"""How SARFace's outputs are compared: slices in numpy's notation, statistics, tables of a row a parameter, agreement.

|got - golden| <= tol * max|golden| over what is compared; tol 0 means equal. A runner gives whole arrays and, for a table
(`X_names`, `X_norm`, `X_mean`, `X_head`, `X_present`), one mapping from parameter name to array (None: no gradient), in the
parameters' order, under each of the table's names. What the file keeps of them is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.golden.case import Expected, Variant

KNOWN = {"is", "tol", "slice", "empty_means", "min_agreement"}
HEAD = 8  # values of a parameter that its row keeps

Array = np.ndarray[Any, Any]
Answer = tuple[float, str | None]


def compare(name: str, variant: Variant, expected: Expected) -> Answer:
    """The worst error relative to what is allowed, and what is wrong (None: nothing)."""
    spec, ref, got = expected.specs[name], expected.arrays[name], variant.outputs[name]
    unknown = set(spec) - KNOWN
    if unknown:
        return np.inf, f"comparison key {sorted(unknown)[0]!r} is not implemented"
    if "empty_means" in spec:
        return _absent(got, spec)
    if isinstance(got, Mapping):
        got = table(name.rsplit("_", 1)[-1], got)
    found = reduced(name, np.asarray(got), ref, spec)
    if found.shape != ref.shape:
        return np.inf, f"shape {found.shape}, expected {ref.shape}"
    if "min_agreement" in spec:
        return _agreement(found, ref, float(spec["min_agreement"]))
    if ref.dtype.kind in "USb" or not spec["tol"]:
        wrong = int((found != ref).sum())
        return (0.0, None) if not wrong else (np.inf, f"{wrong} of {ref.size} entries differ")
    return _numbers(found, ref, float(spec["tol"]))


def reduced(name: str, whole: Array, ref: Array, spec: Mapping[str, Any]) -> Array:
    """What the file keeps of a whole array."""
    if "slice" in spec:
        return np.asarray(whole[tuple(_slice(part) for part in spec["slice"].split(","))])
    if name.rstrip("0123456789").endswith("_stats"):
        return stats(whole)
    if name == "processed_mean":
        return np.asarray(whole.astype(np.float64).mean((2, 3)))
    if name in ("logits_mean", "logits_std"):
        by_class = np.moveaxis(whole.astype(np.float64), 1, 0).reshape(whole.shape[1], -1)
        return np.asarray(by_class.mean(1) if name == "logits_mean" else by_class.std(1, ddof=1))
    if name.startswith("last_bn_"):
        return whole[: len(ref)]
    return whole


def stats(whole: Array) -> Array:
    """Mean, unbiased deviation, largest magnitude and L2 norm in float64."""
    flat = whole.astype(np.float64).ravel()
    return np.array([flat.mean(), flat.std(ddof=1), np.abs(flat).max(), np.linalg.norm(flat)])


def table(column: str, rows: Mapping[str, Array | None]) -> Array:
    """One column of a table: names, norm, mean, head (the first values, zero padded) or present."""
    if column == "names":
        return np.array(list(rows))
    if column == "present":
        return np.array([value is not None for value in rows.values()])
    values = [np.zeros(1) if value is None else np.asarray(value).ravel() for value in rows.values()]
    if column == "head":
        out = np.zeros((len(values), HEAD))
        for row, value in zip(out, values, strict=True):
            row[: min(HEAD, value.size)] = value[:HEAD]
        return out
    reduce = {"norm": np.linalg.norm, "mean": np.mean}[column]
    return np.array([reduce(value.astype(np.float64)) for value in values])


def _slice(part: str) -> slice:
    return slice(*(int(bound) if bound.strip() else None for bound in part.split(":")))


def _absent(got: Any, spec: Mapping[str, Any]) -> Answer:
    if spec["empty_means"] != "no gradient":
        return np.inf, f"empty_means {spec['empty_means']!r} is not implemented"
    return (0.0, None) if got is None or not np.any(got) else (np.inf, "a gradient where there is none")


def _agreement(got: Array, ref: Array, least: float) -> Answer:
    share = float((got == ref).mean())
    ratio = (1 - share) / max(1 - least, 1e-12)
    return ratio, None if share >= least else f"{share:.5f} of the entries agree, at least {least} must"


def _numbers(got: Array, ref: Array, tol: float) -> Answer:
    a, b = got.astype(np.float64), ref.astype(np.float64)
    if not np.isfinite(a).all():
        return np.inf, f"{int((~np.isfinite(a)).sum())} values are not finite"
    if not ref.size:
        return 0.0, None
    error, allowed = np.abs(a - b), tol * float(np.abs(b).max())
    worst = float(error.max())
    ratio = 0.0 if worst == 0 else worst / allowed if allowed else np.inf
    if ratio <= 1:
        return ratio, None
    at = np.unravel_index(int(error.argmax()), a.shape)
    return ratio, f"at {tuple(map(int, at))}: {a[at]:.9g}, expected {b[at]:.9g} within {allowed:.3g}"
