"""The pass rule of the goldens: |got - ref| <= tol * M + atol, NaN where the reference has NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

KNOWN = {"is", "tol", "atol", "per_row", "elementwise", "exact_at", "nan"}


def compare(got: Any, ref: np.ndarray, spec: dict[str, Any], finite_only: bool = False) -> tuple[float, str | None]:
    """Worst error relative to what is allowed (1 = at the tolerance), and what is wrong (None = passes).

    M is the largest finite |ref|: of the array, of each index of axis 0 (`per_row`), or of each element (`elementwise`).
    """
    unknown = set(spec) - KNOWN
    if unknown:
        return np.inf, f"comparison key {sorted(unknown)[0]!r} is not implemented in the harness"
    got = np.asarray(got)
    if got.shape != ref.shape:
        return np.inf, f"shape {got.shape}, expected {ref.shape}"
    if ref.dtype.kind in "USb" or (ref.dtype.kind in "iu" and not spec.get("tol") and not spec.get("atol")):
        wrong = int(np.sum(got.astype(ref.dtype) != ref)) if ref.size else 0
        return (0.0, None) if not wrong else (np.inf, f"{wrong} of {ref.size} entries differ")
    return _compare_numbers(got.astype(np.float64), ref.astype(np.float64), spec, finite_only)


def _compare_numbers(
    got: np.ndarray, ref: np.ndarray, spec: dict[str, Any], finite_only: bool
) -> tuple[float, str | None]:
    if ref.size == 0:
        return 0.0, None
    nan = np.isnan(ref)
    if finite_only:
        if not np.isfinite(got).all():
            return np.inf, f"{int((~np.isfinite(got)).sum())} values are not finite"
    elif not np.array_equal(np.isnan(got), nan):
        return np.inf, f"NaN at {int(np.isnan(got).sum())} places, expected at {int(nan.sum())}"
    magnitude = np.where(np.isfinite(ref), np.abs(ref), 0.0)
    if spec.get("elementwise"):
        scale = magnitude
    elif spec.get("per_row") and ref.ndim:
        scale = magnitude.reshape(len(ref), -1).max(1).reshape([-1] + [1] * (ref.ndim - 1))
    else:
        scale = np.full_like(ref, magnitude.max())
    atol = np.full_like(ref, float(spec.get("atol") or 0.0))
    if spec.get("exact_at") is not None:
        atol[np.asarray(spec["exact_at"], int)] = 0.0
    allowed = float(spec.get("tol") or 0.0) * scale + atol
    with np.errstate(invalid="ignore"):
        error = np.where(nan | (got == ref), 0.0, np.abs(got - ref))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / allowed)
    worst = float(np.max(ratio))
    if worst <= 1.0:
        return worst, None
    at = np.unravel_index(int(np.argmax(ratio)), ref.shape)
    return (
        worst,
        f"at {tuple(int(i) for i in at)}: {got[at]:.9g}, expected {ref[at]:.9g} within {np.broadcast_to(allowed, ref.shape)[at]:.3g}",
    )
