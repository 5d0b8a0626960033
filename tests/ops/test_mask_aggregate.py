"""facex::mask_aggregate against the closed formulas in float64, over types, sizes, memory orders and extreme values."""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import pytest
import torch

from facex.errors import ExtensionError
from facex.ops import extension, mask_aggregate, mask_aggregate_folded
from tests.ops.mask_grids import DEVICES, DTYPES, ORDERS, RULES, close, formulas, inputs

extension()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids="-".join)
def test_agrees_with_float64(rule: tuple[str, str], dtype: torch.dtype, device: str) -> None:
    for shape, skip, with_extra in (((3, 5, 37, 11), True, False), ((2, 3, 7, 7), False, True), ((1,), True, True)):
        y, a, g, extra = inputs(shape, dtype, rule, device, 4)
        leaves = [tensor.clone().requires_grad_() for tensor in (y, a, extra)]
        z = mask_aggregate(
            *leaves[:2], activation=rule[0], arith=rule[1], skip=skip, extra=leaves[2] if with_extra else None
        )
        truth, dy, da = formulas(y, a, g, *rule, skip)
        close(z, truth + extra.double() if with_extra else truth, dtype)
        grads = torch.autograd.grad(z, leaves[: 3 if with_extra else 2], g)
        for value, expected in zip(grads, (dy, da, g.double()), strict=False):
            close(value, expected, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [0, 1, 3, 1023, 1024, 1025, 70_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_any_size(size: int, dtype: torch.dtype, device: str) -> None:
    """Empty, below and above a block, and shared by several threads."""
    y, a, g = inputs((size,), dtype, ("sigmoid", "mul"), device)
    leaves = y.requires_grad_(), a.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        z = mask_aggregate(*leaves, activation="sigmoid", arith="mul")
        grads = torch.autograd.grad(z, leaves, g)
    finally:
        torch.set_num_threads(before)
    for value, truth in zip((z, *grads), formulas(y, a, g, "sigmoid", "mul", True), strict=True):
        close(value, truth.detach(), dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("orders", [*product(ORDERS, repeat=2)], ids="-".join)
def test_any_memory_order(orders: tuple[str, str], device: str) -> None:
    y, a, g, extra = inputs((2, 3, 9, 5), torch.float32, ("tanh", "mul"), device, 4)
    y, a, extra = ORDERS[orders[0]](y), ORDERS[orders[1]](a), ORDERS[orders[1]](extra)
    leaves = [tensor.requires_grad_() for tensor in (y, a)]
    z = mask_aggregate(*leaves, activation="tanh", arith="mul", extra=extra)
    if orders[0] in ("contiguous", "channels_last", "transposed"):
        assert z.stride() == y.stride()
    truth, dy, da = formulas(y, a, g, "tanh", "mul", True)
    close(z, truth + extra, torch.float32)
    for value, expected in zip(torch.autograd.grad(z, leaves, ORDERS[orders[1]](g)), (dy, da), strict=True):
        if orders[1] != "expanded":
            close(value, expected, torch.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", RULES, ids="-".join)
def test_extreme_values(rule: tuple[str, str], device: str) -> None:
    """Masks at their ends: no NaN, and the values that float64 gives as far as float32 reaches."""
    a = torch.tensor([-1e30, -200.0, -95.0, -85.0, -20.0, -1e-5, 1e-5, 0.6, 0.65, 20.0, 90.0, 1e30], device=device)
    y, g = torch.full_like(a, 0.5), torch.full_like(a, 2.0)
    leaves = y.clone().requires_grad_(), a.clone().requires_grad_()
    z = mask_aggregate(*leaves, activation=rule[0], arith=rule[1])
    grads = torch.autograd.grad(z, leaves, g)
    # z may be a small difference of numbers of size 1, the gradients are not
    for value, truth, atol in zip((z, *grads), formulas(y, a, g, *rule, True), (2e-7, 1e-30, 1e-30), strict=True):
        expected = truth.float()
        assert not value.isnan().any()
        inside = expected.isfinite() & (expected.abs() > 1e-37)
        torch.testing.assert_close(value[inside], expected[inside], rtol=1e-5, atol=atol)
        assert (value[expected.abs() == torch.inf].abs() > 1e38).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids="-".join)
def test_not_a_number_shows(rule: tuple[str, str], dtype: torch.dtype, device: str) -> None:
    for where in range(4):
        tensors = inputs((40,), dtype, rule, device, 4)
        tensors[where][17] = float("nan")
        y, a, g, extra = (tensor.requires_grad_(i != 2) for i, tensor in enumerate(tensors))
        z = mask_aggregate(y, a, activation=rule[0], arith=rule[1], extra=extra, div_eps=1e-3)
        dy, da = torch.autograd.grad(z, (y, a), g)
        assert z[17].isnan() == (where != 2)
        assert dy[17].isnan() == (where == 2 or (where == 1 and rule[1] in ("mul", "div")))
        assert da[17].isnan() == (where in (1, 2) or (where == 0 and rule[1] in ("mul", "div")))
        others = torch.arange(40) != 17
        assert all(t[others.to(device)].isfinite().all() for t in (z, dy, da))


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_div_eps_bounds_the_divisor(activation: str, impl: str) -> None:
    a = torch.tensor([-15.0, -9.0, -0.2, -0.0, 0.0, 1e-4, 0.3, 5.0], dtype=torch.float64, requires_grad=True)
    y = torch.full_like(a, 3.0).detach().requires_grad_()
    z = mask_aggregate(y, a, activation=activation, arith="div", skip=False, div_eps=0.05, impl=impl)
    m = torch.sigmoid(a) if activation == "sigmoid" else torch.tanh(a)
    divisor = [max(abs(v), 0.05) * (-1 if v < 0 else 1) for v in m.tolist()]
    torch.testing.assert_close(z, y / torch.tensor(divisor))
    dy, da = torch.autograd.grad(z.sum(), (y, a))
    torch.testing.assert_close(dy, 1 / torch.tensor(divisor, dtype=torch.float64))
    assert ((da == 0) == (m.abs() < 0.05)).all()
    unbounded = mask_aggregate(y, a, activation=activation, arith="div", skip=False, impl=impl)
    (free,) = torch.autograd.grad(unbounded.sum(), a)
    torch.testing.assert_close(da[da != 0], free[da != 0])


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
@pytest.mark.parametrize("rule", RULES, ids="-".join)
def test_one_gradient_alone(rule: tuple[str, str], needs: tuple[bool, bool]) -> None:
    y, a, g = inputs((2, 3, 4, 4), torch.float32, rule)
    leaves = y.requires_grad_(needs[0]), a.requires_grad_(needs[1])
    for skip in (True, False):
        z = mask_aggregate(*leaves, activation=rule[0], arith=rule[1], skip=skip)
        wanted = [t for t in leaves if t.requires_grad]
        (value,) = torch.autograd.grad(z, wanted, g)
        close(value, formulas(y, a, g, *rule, skip)[1 if needs[0] else 2].detach(), torch.float32)


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"activation": "relu"}, ValueError, "activation is 'relu'"),
        ({"arith": "pow"}, ValueError, "arith is 'pow'"),
        ({"div_eps": -0.1}, ValueError, "div_eps"),
        ({"div_eps": float("nan")}, ValueError, "div_eps"),
        ({"impl": "fastest"}, ValueError, "impl"),
        ({"a": torch.ones(2, 3)}, ValueError, r"a is \(2, 3\), y \(2, 4\)"),
        ({"extra": torch.ones(1, 4)}, ValueError, r"extra is \(1, 4\)"),
        ({"a": torch.ones(2, 4).half()}, TypeError, "a is torch.float16, y torch.float32"),
        ({"y": torch.ones(2, 4).long(), "a": torch.ones(2, 4).long()}, TypeError, "y is torch.int64"),
        ({"a": torch.ones(2, 4, device="meta")}, ValueError, "a is on meta"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: type[Exception], what: str) -> None:
    given = {"y": torch.ones(2, 4), "a": torch.ones(2, 4), "activation": "sigmoid", "arith": "mul", **change}
    with pytest.raises(error, match=what):
        mask_aggregate(given.pop("y"), given.pop("a"), **given)
    if "a" in change or "extra" in change:
        return
    y, a = given.get("y", torch.ones(2, 4)), given.get("a", torch.ones(2, 4))
    options = {k: v for k, v in given.items() if k not in ("y", "a")}
    with pytest.raises(error, match=what):
        mask_aggregate_folded(change.get("y", y), change.get("a", a), y, *[torch.ones(4)] * 3, **options)


def test_works_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["facex.ops.mask_aggregate"]
    y, a, _ = inputs((2, 3, 4, 4), torch.float32, ("tanh", "sub"))
    expected = mask_aggregate(y, a, activation="tanh", arith="sub", impl="fused")
    monkeypatch.setattr(module, "has_kernel", lambda op, device: False)
    torch.testing.assert_close(mask_aggregate(y, a, activation="tanh", arith="sub"), expected)
    with pytest.raises(ExtensionError, match="built without kernels for cpu"):
        mask_aggregate(y, a, activation="tanh", arith="sub", impl="fused")


def test_the_tests_can_fail() -> None:
    """The comparison notices an error of one part in 10,000."""
    y, a, g = inputs((2, 3, 4, 4), torch.float32, ("tanh", "sub"))
    wrong = y * 1.0001
    with pytest.raises(AssertionError):
        close(
            mask_aggregate(wrong, a, activation="tanh", arith="sub"), formulas(y, a, g, "tanh", "sub", True)[0], y.dtype
        )
