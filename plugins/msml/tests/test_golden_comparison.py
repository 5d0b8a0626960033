"""The rules by which MSML's golden cases are compared: each lets pass what it should and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.golden.case import Expected, Variant
from tests.golden.comparisons import comparison_of, msml

RNG = np.random.default_rng(0)


def judge(got: Any, ref: Any, spec: dict[str, Any], arrays: dict[str, Any] | None = None, **beside: Any) -> str | None:
    """What is wrong with `got`; None: nothing."""
    expected = Expected({"x": {"is": "something", "tol": 0, **spec}}, {"x": np.asarray(ref), **(arrays or {})})
    return comparison_of("msml")("x", Variant({"x": got, **beside}), expected)[1]


def test_slices_come_before_the_comparison() -> None:
    array = RNG.standard_normal((3, 8, 6))
    spec = {"slice": [[0, 2, 1], [None, None, 4]], "tol": 1e-6}
    assert judge(array, array[:2, ::4], spec) is None
    assert judge(array + 1e-3, array[:2, ::4], spec) is not None
    assert judge(array, array, spec) is not None


def test_fingerprints() -> None:
    array = RNG.standard_normal((4, 50)) + 3
    mark = msml.fingerprint(array)
    assert mark.shape == (69,) and mark[:5] == pytest.approx(
        [array.mean(), array.std(), np.linalg.norm(array), array.min(), array.max()]
    )
    assert mark[5] == array[0, 0] and mark[-1] == array[-1, -1]
    spec = {"reduce": "fp", "tol": 1e-3}
    moved = array.copy()
    moved[0, 0] += 5e-3
    assert judge(moved, mark, spec) is None
    assert judge(moved, mark, {**spec, "tol_parts": [1e-3, 1e-3, 1e-4]}) is not None
    assert judge(array * 1.01, mark, spec) is not None
    assert msml.fingerprint(np.arange(3.0)).shape == (8,)


def test_tables_of_rows() -> None:
    tensors: dict[str, Any] = {"a": RNG.standard_normal((5, 4)), "b": np.ones(3), "c": None}
    table = np.stack([msml.row(value) for value in tensors.values()])
    assert table[1].tolist() == [pytest.approx(3**0.5), 3, 1, 1, 1, 0, 0, 0, 0, 0]
    names = {"names_here": np.array(list(tensors))}
    spec = {"reduce": "rows", "names": "names_here", "tol": 0.1, "nan_rows": 1}
    assert judge(tensors, table, spec, names) is None
    assert judge({**tensors, "c": np.ones(2)}, table, spec, names) == "0 rows without value, expected 1"
    assert "names differ" in str(judge({"a": None}, table, spec, names))
    assert judge(tensors, table, {**spec, "nan_rows": 2}, names) is not None
    off = {**tensors, "b": np.array([1.01, 1, 1])}
    assert judge(off, table, spec, names) is None
    assert "row b" in str(judge(off, table, {**spec, "per_row_tol": 1e-3}, names))


def test_bits_and_pixels_of_another_rasteriser() -> None:
    bits = RNG.integers(0, 2, (10, 10))
    packed = np.packbits(bits)
    other = bits.copy()
    other[3, 3] ^= 1
    spec = {"reduce": "bits", "mismatch": 0.02, "mismatch_if": msml.OTHER_RASTERISER}
    assert judge(bits, packed, {"reduce": "bits"}) is None
    assert judge(other, packed, spec) is not None  # OpenCV 5 drew it: exact
    assert judge(other, packed, spec, polygon_rasteriser="ours") is None
    assert judge(1 - bits, packed, spec, polygon_rasteriser="ours") is not None
    picture = RNG.integers(0, 256, (10, 10, 3)).astype(np.uint8)
    changed = picture.copy()
    changed[0, 0] ^= 255
    spec = {"mismatch": 0.01, "mismatch_if": msml.OTHER_RASTERISER}
    assert judge(changed, picture, spec) is not None
    assert judge(changed, picture, spec, polygon_rasteriser="ours") is None
    changed[0, 1] ^= 255
    assert judge(changed, picture, spec, polygon_rasteriser="ours") is not None
    assert judge(changed, msml.fingerprint(picture), {**spec, "reduce": "fp"}, polygon_rasteriser="ours") is None


def test_literals() -> None:
    ref = np.array(["{'lr': 0.1, 'size': (112, 112), 'gray': False, 'path': 'out'}"])
    spec = {"parse": "python_literal", "ignore_keys": ["path"]}
    good = {"lr": 0.1 + 1e-12, "size": [112, 112], "gray": False}
    assert judge(good, ref, spec) is None
    for wrong in ({"lr": 0.11}, {"gray": 0}, {"size": (112, 96)}, {"more": 1}):
        assert next(iter(wrong)) in str(judge({**good, **wrong}, ref, spec))


def test_nothing_unknown_passes() -> None:
    ones = np.ones(2)
    assert "per_pixel" in str(judge(ones, ones, {"per_pixel": 1}))
    assert "reduction" in str(judge(ones, ones, {"reduce": "sum"}))
    assert "parsing" in str(judge(ones, ones, {"parse": "json"}))
    with pytest.raises(ValueError, match="condition"):
        judge(ones, ones, {"mismatch": 1.0, "mismatch_if": "the moon is full"})
    assert judge(ones, ones, {}) is None and judge(ones + 1e-9, ones, {}) is not None
    assert judge(np.array([np.nan, 1]), np.array([np.nan, 1]), {"tol": 1e-6}) is None
    assert judge(np.array([1.0, 1]), np.array([np.nan, 1]), {"tol": 1e-6}) is not None
