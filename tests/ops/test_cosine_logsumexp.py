"""facex::cosine_logsumexp against brute force in float64, over odd shapes, rules and options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from facex.ops import cosine_logsumexp, cosine_logsumexp_backward, cosine_logsumexp_forward
from tests.ops.grids import RULES, SHAPES, Inputs, error, make

TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}


def rounded(values: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The values as operands of this type, with the gradient of the values themselves."""
    return values if dtype is None else values + (values.to(dtype).to(values.dtype) - values).detach()


def brute_force(inputs: Inputs, operands: torch.dtype | None = None) -> tuple[torch.Tensor, ...]:
    """neg, dx, dweight by autograd over all logits, written out here independently of facex.ops.reference."""
    x, w = inputs.x.clone().requires_grad_(), inputs.weight.clone().requires_grad_()
    o = inputs.options
    chosen = w if o.get("subset") is None else w[o["subset"]]
    chosen = normalize(chosen) if o.get("normalize", True) else chosen
    raw = rounded(x, operands) @ rounded(chosen, operands).t()
    limit = None if o.get("threshold") is None else o["threshold"][:, None]
    g = {
        "plain": lambda: raw,
        "clamp": lambda: raw.clamp(-1, 1) if limit is None else torch.maximum(torch.minimum(raw, limit), -limit),
        "zero_above": lambda: raw * (raw <= limit),
        "hard": lambda: torch.where(raw > limit, raw * (o["hard_t"] + raw), raw),
    }[o["rule"]]()
    logits = o["scale"] * g
    if o.get("bias") is not None:
        logits = logits + (o["bias"] if o.get("subset") is None else o["bias"][o["subset"]])
    keep = torch.ones_like(logits)
    loss = torch.zeros((), dtype=x.dtype)
    if o.get("excluded") is not None:
        for i, row in enumerate(o["excluded"].tolist()):
            for k, column in enumerate(row):
                if column >= 0:
                    keep[i, column] = 0
                    loss = loss + raw[i, column] * inputs.excluded_grad[i, k]
    neg = (keep * logits.sub(logits.detach().max()).exp()).sum(1).log() + logits.detach().max()
    loss = loss + (neg * inputs.grad_neg).sum()
    dx, dw = torch.autograd.grad(loss, (x, w))
    if o.get("subset") is not None:
        dw = dw[o["subset"]]
    return neg.detach(), dx, dw


def fused(inputs: Inputs, impl: str = "fused", **more: str) -> tuple[torch.Tensor, ...]:
    options = {**inputs.options, "impl": impl, **more}
    neg = cosine_logsumexp_forward(inputs.x, inputs.weight, **options)
    excluded = options.pop("excluded")
    folded = None if excluded is None else inputs.excluded_grad
    dx, dw, _ = cosine_logsumexp_backward(inputs.x, inputs.weight, neg, inputs.grad_neg, excluded, folded, **options)
    return neg, dx, dw


@pytest.mark.parametrize("compute_dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(shape: tuple[int, int, int], rule: str, compute_dtype: str) -> None:
    inputs = make(shape, rule)
    # The other rules have kinks and jumps: there the operands' rounding is given to both sides, and the rest is
    # compared.
    operands = None if rule == "plain" else {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[compute_dtype]
    truth = brute_force(inputs, operands)
    for name, value, expected in zip(
        ("neg", "dx", "dweight"), fused(inputs.as_dtype(torch.float32), compute_dtype=compute_dtype), truth, strict=True
    ):
        assert error(value, expected) <= TOLERANCE[compute_dtype], name


@pytest.mark.parametrize("impl", ["fused", "generic", "reference"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "options", [{}, {"excluded": 3}, {"excluded": 0}, {"subset": True}, {"bias": True, "normalize": False}], ids=str
)
def test_every_implementation_in_float64(impl: str, rule: str, options: dict[str, object]) -> None:
    shape = (9, 12, 300)
    g = torch.Generator().manual_seed(5)
    more: dict[str, object] = {}
    if options.get("subset"):
        more["subset"] = torch.randperm(300, generator=g)[:77].sort().values
    if options.get("bias"):
        more = {"bias": torch.randn(300, generator=g, dtype=torch.float64), "normalize": False}
    inputs = make(shape, rule, excluded=int(options.get("excluded", 1)), **more)  # type: ignore[call-overload]
    if options.get("subset"):
        inputs.options["excluded"] = torch.randint(-1, 77, (9, 1), generator=g)
    for value, expected in zip(fused(inputs, impl), brute_force(inputs), strict=True):
        assert error(value, expected) < 1e-12


def test_excluded_columns_that_are_equal_add_up() -> None:
    inputs = make((4, 8, 20), excluded=3)
    inputs.options["excluded"] = inputs.options["excluded"][:, :1].repeat(1, 3)
    for impl in ("fused", "generic"):
        for value, expected in zip(fused(inputs, impl), brute_force(inputs), strict=True):
            assert error(value, expected) < 1e-12
    for value, expected in zip(
        fused(inputs.as_dtype(torch.float32), compute_dtype="bf16"), brute_force(inputs), strict=True
    ):
        assert error(value, expected) < 1e-2


@pytest.mark.parametrize("compute_dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("impl", ["fused", "generic", "reference"])
@pytest.mark.parametrize("classes", [0, 1, 2])
def test_nothing_left(impl: str, classes: int, compute_dtype: str) -> None:
    """Rows without a negative: -inf, and gradients of zero instead of NaN."""
    x = normalize(torch.randn(3, 4)).requires_grad_()
    w = torch.randn(classes, 4).requires_grad_()
    excluded = torch.arange(max(classes, 1)).repeat(3, 1)
    neg = cosine_logsumexp(x, w, scale=64.0, excluded=excluded, impl=impl, compute_dtype=compute_dtype)
    assert torch.equal(neg, torch.full((3,), float("-inf")))
    torch.nn.functional.softplus(neg).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))  # type: ignore[arg-type]
    assert torch.equal(w.grad, torch.zeros_like(w))  # type: ignore[arg-type]


@pytest.mark.parametrize("impl", ["fused", "generic"])
def test_empty_batch(impl: str) -> None:
    x, w = torch.zeros(0, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    cosine_logsumexp(x, w, scale=64.0, impl=impl).sum().backward()
    assert torch.equal(w.grad, torch.zeros_like(w))  # type: ignore[arg-type]


@pytest.mark.parametrize("compute_dtype", ["fp32", "bf16"])
def test_zero_length_weights(compute_dtype: str) -> None:
    inputs = make((6, 10, 40)).as_dtype(torch.float32)
    inputs.weight[3] = 0
    neg, dx, dw = fused(inputs, compute_dtype=compute_dtype)
    truth = brute_force(inputs.as_dtype(torch.float64))
    assert torch.isfinite(dw).all()
    others = torch.arange(40) != 3
    assert error(neg, truth[0]) < 1e-2
    assert error(dx, truth[1]) < 1e-2
    assert error(dw[others], truth[2][others]) < 1e-2
    assert error(dw[3], truth[2][3]) < 2e-2


@pytest.mark.parametrize("compute_dtype", ["fp32", "bf16"])
def test_large_scale_and_aligned_vectors(compute_dtype: str) -> None:
    """Cosines of exactly 1 and -1 at scale 64: the running maximum keeps everything finite."""
    w = torch.randn(500, 16)
    w[1] = -w[0]
    x = normalize(w[:2])
    for excluded in (None, torch.tensor([[0], [1]])):
        inputs = Inputs(x, w, {"scale": 64.0, "rule": "plain", "excluded": excluded}, torch.ones(2, 1), torch.ones(2))
        values = fused(inputs, compute_dtype=compute_dtype)
        assert all(torch.isfinite(v).all() for v in values)
        assert error(values[0], brute_force(inputs.as_dtype(torch.float64))[0]) < TOLERANCE[compute_dtype]


def test_not_a_number_shows() -> None:
    """A NaN in the input must reach the loss: the trainer stops there."""
    for where in ("x", "weight"):
        inputs = make((4, 8, 50)).as_dtype(torch.float32)
        getattr(inputs, where)[1, 2] = float("nan")
        for compute_dtype in ("fp32", "bf16"):
            assert torch.isnan(fused(inputs, compute_dtype=compute_dtype)[0][1])


def test_shards_combine() -> None:
    """Two shards with the global neg give the gradients of one: dx adds up, dweight is complete."""
    inputs = make((6, 16, 90)).as_dtype(torch.float64)
    truth = brute_force(inputs)
    excluded, scale = inputs.options["excluded"], 16.0
    parts = [(0, 37), (37, 90)]
    local = [torch.where((excluded >= a) & (excluded < b), excluded - a, -1) for a, b in parts]
    negs = [
        cosine_logsumexp_forward(inputs.x, inputs.weight[a:b], scale=scale, excluded=e)
        for (a, b), e in zip(parts, local, strict=True)
    ]
    neg = torch.logaddexp(*negs)
    pieces = [
        cosine_logsumexp_backward(
            inputs.x, inputs.weight[a:b], neg, inputs.grad_neg, e, inputs.excluded_grad, scale=scale
        )
        for (a, b), e in zip(parts, local, strict=True)
    ]
    assert error(neg, truth[0]) < 1e-12
    assert error(pieces[0][0] + pieces[1][0], truth[1]) < 1e-12
    assert error(torch.cat([p[1] for p in pieces]), truth[2]) < 1e-12


@pytest.mark.parametrize("impl", ["fused", "generic", "reference"])
def test_accumulates_into_a_buffer(impl: str) -> None:
    inputs = make((300, 16, 90))
    neg, _, dw = fused(inputs)
    buffer = torch.full_like(dw, 2.0)
    excluded = inputs.options["excluded"]
    _, returned, _ = cosine_logsumexp_backward(
        inputs.x,
        inputs.weight,
        neg,
        inputs.grad_neg,
        excluded,
        inputs.excluded_grad,
        scale=16.0,
        impl=impl,
        accumulate_into=buffer,
    )
    assert returned is buffer
    assert error(buffer - 2.0, dw) < 1e-12


@pytest.mark.parametrize("compute_dtype", ["fp32", "bf16"])
def test_accumulates_in_lower_precision(compute_dtype: str) -> None:
    inputs = make((30, 64, 300)).as_dtype(torch.float32)
    neg, _, dw = fused(inputs, compute_dtype=compute_dtype)
    buffer = torch.ones_like(dw)
    options = {"scale": 16.0, "compute_dtype": compute_dtype, "accumulate_into": buffer}
    excluded = inputs.options["excluded"]
    cosine_logsumexp_backward(inputs.x, inputs.weight, neg, inputs.grad_neg, excluded, inputs.excluded_grad, **options)
    assert error(buffer - 1.0, dw) < 1e-5


def test_own_rule_takes_the_generic_path() -> None:
    inputs = make((8, 12, 200))
    inputs.x, inputs.weight = inputs.x.requires_grad_(), inputs.weight.requires_grad_()
    rule = lambda c: c + 0.1 * c**2  # noqa: E731
    neg = cosine_logsumexp(inputs.x, inputs.weight, scale=8.0, rule=rule)
    truth = (8.0 * rule(inputs.x @ normalize(inputs.weight).t())).logsumexp(1)
    assert error(neg, truth) < 1e-12
    ours = torch.autograd.grad(neg.sum(), (inputs.x, inputs.weight))
    for a, b in zip(ours, torch.autograd.grad(truth.sum(), (inputs.x, inputs.weight)), strict=True):
        assert error(a, b) < 1e-12
    with pytest.raises(ValueError, match="generic"):
        cosine_logsumexp(inputs.x, inputs.weight, scale=8.0, rule=rule, impl="fused")


def test_weights_stored_in_half_precision() -> None:
    inputs = make((8, 32, 200)).as_dtype(torch.float32)
    inputs.weight = inputs.weight.bfloat16()
    truth = brute_force(inputs.as_dtype(torch.float64))
    for value, expected in zip(fused(inputs), truth, strict=True):
        assert error(value, expected) < 1e-5
    w = inputs.weight.clone().requires_grad_()
    cosine_logsumexp(inputs.x, w, scale=16.0).sum().backward()
    assert w.grad is not None
    assert w.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(threads: int) -> None:
    inputs = make((20, 16, 2000))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        values = fused(inputs)
    finally:
        torch.set_num_threads(before)
    for value, expected in zip(values, brute_force(inputs), strict=True):
        assert error(value, expected) < 1e-12


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rule": "soft"}, "rule"),
        ({"compute_dtype": "fp8"}, "compute_dtype"),
        ({"impl": "fastest"}, "impl"),
        ({"scale": 0.0}, "scale"),
        ({"rule": "hard", "threshold": 0.5}, "hard_t"),
        ({"rule": "zero_above"}, "threshold"),
        ({"excluded": torch.zeros(3, dtype=torch.int64)}, "excluded"),
        ({"bias": torch.zeros(2)}, "bias"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], what: str) -> None:
    options = {"scale": 16.0, "impl": "fused", **change}
    with pytest.raises(ValueError, match=what):
        cosine_logsumexp(torch.ones(3, 4), torch.ones(5, 4), **options)
