"""How the LAFS goldens are compared: fingerprints, tables with named rows and columns, maps of parameter groups.

|got - golden| <= tol * max|golden| over what is compared; tol 0 means equal. A runner gives the full arrays:

    *_fp            an array whose first axes are the table's rows, or a mapping from row name to array
    rows            a mapping from the names in that array to values; `skip_rows` are not compared
    columns         one such mapping for each row
    group*          a mapping from parameter name to its group, rate scale or weight decay
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.golden.case import Expected, Variant

KNOWN = {"is", "tol", "shape", "dtype", "rows", "columns", "skip_rows"}
FINGERPRINT = 21
HEADLESS = "backbone.loss.weight"  # an unused head that the official self-supervised backbone carries and ours does not

Result = tuple[float, str | None]


def compare(name: str, variant: Variant, expected: Expected) -> Result:
    """Worst error relative to what is allowed, and what is wrong (None = passes)."""
    spec = expected.specs[name]
    unknown = set(spec) - KNOWN
    if unknown:
        return np.inf, f"comparison key {sorted(unknown)[0]!r} is not implemented in the comparison"
    got, ref = variant.outputs[name], expected.arrays[name]
    if name == "group" or name.startswith("group_"):
        return _groups(name, got, expected)
    if ref.dtype.kind in "US":
        return _names(name, got, ref)
    try:
        table = _table(got, ref, spec, expected.arrays)
    except (KeyError, ValueError) as error:
        return np.inf, str(error)
    rows = _kept(spec, expected.arrays, "rows", len(ref) if ref.ndim else 1)
    if "columns" in spec:
        columns = _kept(spec, expected.arrays, "columns", ref.shape[1])
        return _numbers(table[:, columns], ref[:, columns], spec)
    return _numbers(table[rows], ref[rows], spec) if "rows" in spec else _numbers(table, ref, spec)


def fingerprint(value: Any) -> np.ndarray:
    """[mean, population std, min, max, mean |x|, first 8, last 8] of the flattened value; zeros below 8 elements."""
    x = np.asarray(value, np.float64).ravel()
    first, last = np.zeros(8), np.zeros(8)
    first[: min(8, x.size)], last[: min(8, x.size)] = x[:8], x[-8:]
    return np.concatenate([[x.mean(), x.std(), x.min(), x.max(), np.abs(x).mean()], first, last])


def _table(got: Any, ref: np.ndarray, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What the runner gave, in the golden's form."""
    reduced = fingerprint if "fingerprint" in spec["is"] else np.asarray
    if "columns" in spec:
        return np.stack([_by_name(row, arrays[spec["columns"]], np.asarray, 0.0) for row in got])
    if isinstance(got, Mapping):
        return _by_name(got, arrays[spec["rows"]], reduced, np.zeros(ref.shape[1:]))
    if reduced is np.asarray:
        return np.asarray(got)
    lead = ref.shape[:-1]
    parts = got if isinstance(got, Sequence) else np.asarray(got).reshape(-1, *np.shape(got)[len(lead) :])
    if len(parts) != int(np.prod(lead)):
        raise ValueError(f"{len(parts)} rows to fingerprint, expected {lead}")
    return np.stack([fingerprint(part) for part in parts]).reshape(ref.shape)


def _by_name(values: Mapping[str, Any], names: np.ndarray, reduced: Any, absent: Any) -> np.ndarray:
    wanted = [str(name) for name in names]
    surplus = set(values) - set(wanted)
    if surplus:
        raise ValueError(f"rows that the golden does not have: {sorted(surplus)[:4]}")
    rows = []
    for name in wanted:
        if name not in values and name != HEADLESS:
            raise KeyError(f"no row {name}")
        rows.append(reduced(values[name]) if name in values else absent)
    return np.stack(rows)


def _kept(spec: dict[str, Any], arrays: dict[str, np.ndarray], axis: str, count: int) -> np.ndarray:
    skipped = {*spec.get("skip_rows", ()), HEADLESS}
    names = [str(n) for n in arrays[spec[axis]]] if axis in spec else [""] * count
    return np.array([name not in skipped for name in names], bool)


def _numbers(got: np.ndarray, ref: np.ndarray, spec: dict[str, Any]) -> Result:
    if got.shape != ref.shape:
        return np.inf, f"shape {got.shape}, expected {ref.shape}"
    a, b = got.astype(np.float64), ref.astype(np.float64)
    if not np.isfinite(a).all():
        return np.inf, f"{int((~np.isfinite(a)).sum())} values are not finite"
    error = float(np.abs(a - b).max(initial=0.0))
    allowed = float(spec.get("tol") or 0.0) * float(np.abs(b).max(initial=0.0))
    if error <= allowed:
        return (error / allowed if allowed else 0.0), None
    at = np.unravel_index(int(np.abs(a - b).argmax()), a.shape)
    return np.inf, f"at {tuple(map(int, at))}: {a[at]:.9g}, expected {b[at]:.9g} within {allowed:.3g}"


def _names(name: str, got: Any, ref: np.ndarray) -> Result:
    mine, theirs = [str(x) for x in got], [str(x) for x in ref if str(x) != HEADLESS]
    if name == "names":  # of parameters, group by group: their numbering is free
        mine, theirs = sorted(mine), sorted(theirs)
    if mine == theirs:
        return 0.0, None
    return np.inf, f"names differ: {sorted(set(mine) ^ set(theirs))[:6] or 'another order'}"


def _groups(name: str, got: Mapping[str, Hashable], expected: Expected) -> Result:
    """Maps by parameter name: a scale and a decay must be equal; groups must part the parameters alike."""
    arrays = expected.arrays
    names, group = [str(n) for n in arrays["names"]], arrays["group"]
    if sorted(names) != sorted(got):
        return np.inf, f"names differ: {sorted(set(names) ^ set(got))[:6]}"
    mine = [got[n] for n in names]
    if name == "group":
        pairs = set(zip(group.tolist(), mine, strict=True))
        same = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        return (0.0, None) if same else (np.inf, "the groups part the parameters in another way")
    return _numbers(np.array(mine, np.float64), arrays[name][group], expected.specs[name])
