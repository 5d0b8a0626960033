"""The optimizer step inside the backward pass: equal to the gradient followed by torch.optim, and to its reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from facex.ops import RowStep, cosine_logsumexp_backward, cosine_logsumexp_forward, cosine_logsumexp_step, extension
from facex.ops.step import stochastic_bf16, update_rows
from tests.ops.grids import Inputs, error, make

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": SGD,
    "nesterov": {**SGD, "nesterov": True},
    "plain": {**SGD, "momentum": 0.0},
    "adamw": {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6},
}


def numbers(name: str, count: int) -> RowStep:
    """Step `count` of torch.optim's optimizer with these options."""
    o = OPTIMIZERS[name]
    if name == "adamw":
        (first, second), common = o["betas"], {"lr": o["lr"], "weight_decay": o["weight_decay"], "eps": o["eps"]}
        corrections = {"correction1": 1 - first**count, "correction2": 1 - second**count}
        return RowStep("adamw", momentum=first, beta2=second, **common, **corrections)
    return RowStep("sgd", **o)


def empty_moments(name: str, weight: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    count = {"plain": 0, "adamw": 2}.get(name, 1)
    return [torch.zeros_like(weight, dtype=dtype if i == 0 else None) for i in range(count)]


def stepped(inputs: Inputs, name: str, impl: str, dtype: torch.dtype | None = None, **more: Any) -> tuple[Tensor, ...]:
    """dx of the second of two fused steps, the weights after it, and the moments."""
    options = {**inputs.options, "impl": impl, **more}
    weight, excluded = inputs.weight.clone(), options.pop("excluded")
    moments, dx = empty_moments(name, weight, dtype), inputs.x
    for count in (1, 2):
        neg = cosine_logsumexp_forward(inputs.x, weight, excluded=excluded, **options)
        upstream = (neg, inputs.grad_neg, excluded, inputs.excluded_grad)
        dx, _ = cosine_logsumexp_step(
            inputs.x, weight, *upstream, moments=moments, step=numbers(name, count), **options
        )
    return dx, weight, *moments


def expected(inputs: Inputs, name: str) -> tuple[Tensor, ...]:
    """The same by the gradient and torch.optim."""
    options = dict(inputs.options)
    weight, excluded, dx = inputs.weight.clone(), options.pop("excluded"), inputs.x
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
    optimizer = kind([weight], **OPTIMIZERS[name])
    for _ in range(2):
        neg = cosine_logsumexp_forward(inputs.x, weight, excluded=excluded, **options)
        upstream = (neg, inputs.grad_neg, excluded, inputs.excluded_grad)
        dx, weight.grad, _ = cosine_logsumexp_backward(inputs.x, weight, *upstream, impl="reference", **options)
        optimizer.step()
    return dx, weight


@pytest.mark.parametrize("impl", ["fused", "generic", "reference"])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize(("shape", "rule"), [((1, 5, 3), "plain"), ((7, 13, 257), "clamp"), ((300, 12, 600), "hard")])
def test_equals_torch_optim(shape: tuple[int, int, int], rule: str, name: str, impl: str) -> None:
    inputs = make(shape, rule)
    for value, truth in zip(stepped(inputs, name, impl), expected(inputs, name), strict=False):
        assert error(value, truth) < 1e-11


@pytest.mark.parametrize(("compute_dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2), ("fp16", 1e-2)])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_lower_precision(name: str, compute_dtype: str, tolerance: float) -> None:
    inputs = make((65, 31, 515))
    dx, weight, *_ = stepped(inputs.as_dtype(torch.float32), name, "fused", compute_dtype=compute_dtype)
    truth = expected(inputs, name)
    assert error(dx, truth[0]) <= tolerance
    # AdamW divides by the gradient's own size: what is rounded away of a small gradient moves its weight all the same
    moved, wanted = weight - inputs.weight.float(), truth[1] - inputs.weight
    assert error(moved, wanted) <= tolerance * (5 if name == "adamw" and compute_dtype != "fp32" else 1)


def test_plain_softmax_with_bias() -> None:
    bias = torch.randn(300, dtype=torch.float64)
    inputs = make((9, 12, 300), bias=bias, normalize=False)
    for value, truth in zip(stepped(inputs, "sgd", "fused"), expected(inputs, "sgd"), strict=False):
        assert error(value, truth) < 1e-11
    options = {k: v for k, v in inputs.options.items() if k != "excluded"}
    upstream = (torch.zeros(9).double(), inputs.grad_neg, inputs.options["excluded"], inputs.excluded_grad)
    _, _, dbias = cosine_logsumexp_backward(inputs.x, inputs.weight, *upstream, **options)
    for impl in ("fused", "generic"):
        moments, step = empty_moments("sgd", inputs.weight), numbers("sgd", 1)
        more = {**options, "impl": impl, "moments": moments, "step": step}
        _, found = cosine_logsumexp_step(inputs.x, inputs.weight.clone(), *upstream, **more)
        assert error(found, dbias) < 1e-12


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(threads: int) -> None:
    inputs, before = make((20, 16, 1500)), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        values = stepped(inputs, "adamw", "fused")
    finally:
        torch.set_num_threads(before)
    for value, truth in zip(values, expected(inputs, "adamw"), strict=False):
        assert error(value, truth) < 1e-11


def test_an_empty_batch_still_decays() -> None:
    weight, moments = torch.randn(5, 4), [torch.ones(5, 4)]
    before, step = weight.clone(), RowStep("sgd", lr=0.1, weight_decay=0.5, momentum=0.9)
    cosine_logsumexp_step(torch.zeros(0, 4), weight, *torch.zeros(2, 0), moments=moments, step=step, scale=64.0)
    torch.testing.assert_close(weight, before - 0.1 * (0.9 + 0.5 * before))


def test_bf16_momentum_is_rounded_alike_everywhere() -> None:
    """Without a gradient the momentum is 0.9 times what it was: the compiled kernels and PyTorch must then choose the same
    neighbour for every number, whatever shard it is in."""
    g = torch.Generator().manual_seed(3)
    x, weight = torch.randn(2, 33, generator=g), torch.randn(700, 33, generator=g)
    start, zero = torch.randn(700, 33, generator=g).bfloat16(), torch.zeros(2)
    start[5, 3], start[6, 4] = float("inf"), float("nan")
    step = RowStep("sgd", lr=0.0, momentum=0.9, rounding_key=-123456789, first_class=40)
    wanted = stochastic_bf16(start.float() * 0.9, step.rounding_key, torch.arange(40, 740))
    for impl in ("fused", "generic"):
        moment = start.clone()
        cosine_logsumexp_step(x, weight.clone(), zero, zero, moments=[moment], step=step, scale=1.0, impl=impl)
        assert torch.equal(moment.nan_to_num(nan=7.0), wanted.nan_to_num(nan=7.0))
    assert torch.isinf(wanted[5, 3])
    assert torch.isnan(wanted[6, 4])
    assert torch.equal(
        stochastic_bf16(start[9:12].float() * 0.9, step.rounding_key, torch.arange(49, 52)), wanted[9:12]
    )


def test_stochastic_rounding_has_the_right_mean() -> None:
    """A change of a sixteenth of bf16's spacing is lost by rounding to nearest, and kept on the average here."""
    values = torch.full((4000, 16), 1.0) + 2.0**-11
    rounded = stochastic_bf16(values, 99, torch.arange(4000)).double()
    assert set(rounded.unique().tolist()) == {1.0, 1.0 + 2.0**-7}
    deviation = 2.0**-7 * (1 / 16 * 15 / 16) ** 0.5 / 64_000**0.5
    assert abs(float(rounded.mean()) - (1 + 2.0**-11)) < 4 * deviation
    assert abs(float(rounded.mean(0).var()) ** 0.5 - deviation * 4) < deviation * 4  # columns are independent
    other = stochastic_bf16(values, 100, torch.arange(4000)).double()
    assert 0.8 < float((other == rounded).double().mean()) < 0.95  # (15^2 + 1) / 16^2 = 0.88


def test_bf16_momentum_trains_as_fp32_does() -> None:
    inputs = make((64, 16, 300)).as_dtype(torch.float32)
    exact, short = (stepped(inputs, "sgd", "fused", dtype) for dtype in (None, torch.bfloat16))
    assert short[2].dtype == torch.bfloat16
    assert error(short[2], exact[2]) < 2e-2
    assert error(short[1] - inputs.weight, exact[1] - inputs.weight) < 1e-2
    first = stepped(inputs, "adamw", "fused", torch.bfloat16)
    assert [m.dtype for m in first[2:]] == [torch.bfloat16, torch.float32]


def test_reference_step_is_in_place() -> None:
    weight, moment = torch.ones(2, 3), torch.ones(2, 3)
    step = RowStep("sgd", lr=0.5, momentum=0.5)
    update_rows(weight, torch.ones(2, 3), [moment], step, torch.arange(2))
    assert torch.equal(moment, torch.full((2, 3), 1.5))
    assert torch.equal(weight, torch.full((2, 3), 0.25))


@pytest.mark.parametrize("name", ["plain", "sgd", "adamw"])
def test_opcheck(name: str) -> None:
    extension()
    inputs = make((4, 6, 30), "clamp")
    o = inputs.options
    tensors = (o["excluded"], inputs.excluded_grad, None, None, torch.zeros(30).double())
    scalars = (o["scale"], o["rule"], True, "fp32", empty_moments(name, inputs.weight), *numbers(name, 1).arguments())
    call = (inputs.x, inputs.weight, torch.ones(4).double(), inputs.grad_neg, *tensors, *scalars)
    opcheck(torch.ops.facex.cosine_logsumexp_step.default, call)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"moments": []}, "given 0 moments; expected two"),
        ({"moments": [torch.zeros(5, 4), torch.zeros(4, 4)]}, r"expected a contiguous \[5, 4\]"),
        ({"moments": [torch.zeros(5, 4), torch.zeros(5, 4, dtype=torch.bfloat16)]}, "moment is .* BFloat16"),
        ({"step": RowStep("lamb", lr=0.1)}, "must be sgd or adamw"),
        ({"weight": torch.ones(5, 4, dtype=torch.bfloat16)}, "full precision"),
        ({"excluded_grad": torch.zeros(3, 1)}, "without excluded"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], says: str) -> None:
    moments = [torch.zeros(5, 4), torch.zeros(5, 4)]
    call = {"weight": torch.ones(5, 4), "moments": moments, "step": RowStep("adamw", lr=0.1, beta2=0.9), **change}
    with pytest.raises(ValueError, match=says):
        cosine_logsumexp_step(torch.ones(3, 4), lse=torch.zeros(3), grad_neg=torch.zeros(3), scale=1.0, **call)


# The gradient of 400,000 x 64 numbers is 98 MB, as are the weights and the momentum; all of them exist before the count.
SCRIPT = """
import resource, sys, threading, torch
from facex.heads import CosFace, MarginHead
fused, precision, momentum = sys.argv[1] == "fused", sys.argv[2], sys.argv[3]
head = MarginHead(CosFace(), 64, 400_000, group="alone", precision=precision, fused_step=fused)
head.build_optimizer("sgd", momentum_dtype=momentum)
for moment in head.optimizer.moments.values():
    moment.fill_(0.01)
small = MarginHead(CosFace(), 64, 3000, group="alone", precision=precision, fused_step=fused)
small.build_optimizer("sgd", momentum_dtype=momentum)
x = torch.randn(16, 64, requires_grad=True)


def train(head):
    head(x, torch.arange(16)).loss.backward()
    head.step()


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20


train(small)
before = peak = resident()
done = threading.Event()


def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, resident())


watcher = threading.Thread(target=watch)
watcher.start()
train(head)
done.set()
watcher.join()
print(max(peak, resident()) - before)
"""


@pytest.mark.parametrize(
    ("kind", "precision", "momentum", "least", "most"),
    [("fused", "bf16", "bf16", 0, 30), ("window", "fp32", "fp32", 90, 200)],
)
def test_no_gradient_is_stored(kind: str, precision: str, momentum: str, least: int, most: int) -> None:
    """The last case keeps its gradient: it shows that the measurement sees one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", SCRIPT, kind, precision, momentum]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert least <= int(run.stdout) <= most
