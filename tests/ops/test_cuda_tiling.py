"""The CUDA kernels' exact walk, replayed in PyTorch on the CPU.

Chunks, threads' strided columns, warps, running maxima, operands in bf16/fp16 with gradients in a common unit, and the
projection of each class row: the algorithm of csrc/margin_softmax/{kernels.cuh,cuda.cu}, checked where there is no GPU.
With one, the kernels themselves are compared too.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from facex.ops import RowStep, cosine_logsumexp_backward, cosine_logsumexp_forward, cosine_logsumexp_step
from facex.ops.step import stochastic_bf16
from tests.ops.grids import RULES, Inputs, error, make

THREADS, WARP = 512, 32  # kTileThreads, kWarp
INF = float("inf")


def chunk_size(batch: int, columns: int, tile_bytes: int, least: int, most: int) -> int:
    """chunk_size of cuda.cu, with its constants as arguments."""
    fitting = tile_bytes // (max(1, batch) * 4) // 256 * 256
    return min(max(1, columns), max(least, min(most, fitting)))


def combine(top: Tensor, total: Tensor, other_top: Tensor, other_total: Tensor) -> tuple[Tensor, Tensor]:
    """combine of kernels.cuh, elementwise."""
    both = torch.maximum(top, other_top)
    base = both.where(both != -INF, 0.0)
    return both, total * (top - base).exp() + other_total * (other_top - base).exp()


def rule_value(rule: str, c: Tensor, threshold: Tensor | None, t: Tensor | None) -> Tensor:
    if rule == "clamp":
        bound = torch.ones(1) if threshold is None else threshold
        return torch.where(c == -INF, c, torch.clamp(c, -bound, bound))
    if rule == "zero_above":
        return c.where(~(c > threshold), 0.0)
    if rule == "hard":
        return c.where(~(c > threshold), c * (t + c))
    return c


def rule_slope(rule: str, c: Tensor, threshold: Tensor | None, t: Tensor | None) -> Tensor:
    one = torch.ones_like(c)
    if rule == "clamp":
        return one * (c.abs() <= (1 if threshold is None else threshold))
    if rule == "zero_above":
        return one * ~(c > threshold)
    if rule == "hard":
        return torch.where(c > threshold, t + 2 * c, one)
    return one


class Walk:
    """class Walk of cuda.cu for one call."""

    def __init__(self, inputs: Inputs, operand: torch.dtype, sizes: tuple[int, int, int]) -> None:
        o = inputs.options
        self.x, self.weight = inputs.x.float(), inputs.weight.float()
        self.excluded, self.rule, self.scale = o["excluded"], o["rule"], o["scale"]
        self.threshold = None if o.get("threshold") is None else o["threshold"].float()[:, None]
        self.hard_t = None if o.get("hard_t") is None else o["hard_t"].float()
        self.operand = operand
        self.chunk = chunk_size(self.x.shape[0], self.weight.shape[0], *sizes)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Operands of the operand type, fp32 sums: products of such numbers are exact in fp32."""
        return a.to(self.operand).float() @ b.to(self.operand).float()

    def load(self, begin: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """pack_weights, the first product and mark_excluded: packed rows, 1 / |w|, whether free, the tile."""
        rows = self.weight[begin : begin + self.chunk]
        norm = rows.square().sum(1).sqrt()
        inverse = 1 / norm.clamp_min(1e-12)
        packed = (rows * inverse[:, None]).to(self.operand)
        tile = self.multiply(self.x, packed.t())
        for i, row in enumerate((self.excluded - begin).tolist()):
            for column in row:
                if 0 <= column < tile.shape[1]:
                    tile[i, column] = -INF
        return packed, inverse, (norm >= 1e-12).float(), tile

    def forward(self) -> Tensor:
        """forward_tile chunk by chunk."""
        batch = self.x.shape[0]
        maximum, total = torch.full((batch,), -INF), torch.zeros(batch)
        for begin in range(0, self.weight.shape[0], self.chunk):
            tile = self.load(begin)[3]
            logits = rule_value(self.rule, tile, self.threshold, self.hard_t) * self.scale
            padded = torch.full((batch, -(-logits.shape[1] // THREADS) * THREADS), -INF)
            padded[:, : logits.shape[1]] = logits
            top, part = torch.full((batch, THREADS), -INF), torch.zeros(batch, THREADS)
            for step in padded.split(THREADS, 1):  # a thread's next column
                top, part = combine(top, part, step, (step != -INF).float())
            for shift in (16, 8, 4, 2, 1):  # butterflies within a warp
                other = torch.arange(THREADS) ^ shift
                top, part = combine(top, part, top[:, other], part[:, other])
            for warp in range(0, THREADS, WARP):
                maximum, total = combine(maximum, total, top[:, warp], part[:, warp])
        return maximum + total.log()

    def backward(
        self, lse: Tensor, grad: Tensor, excluded_grad: Tensor, step: Step | None = None
    ) -> tuple[Tensor, Tensor]:
        """backward_tile, the two products and finish_rows; with `step`, step_rows in place of finish_rows."""
        unit = torch.ones(1)
        if self.operand == torch.float16:
            unit = torch.maximum(grad.abs().max() * self.scale, excluded_grad.abs().max()).clamp_min(1e-30)
        dx, dweight = torch.zeros_like(self.x), torch.empty_like(self.weight)
        for begin in range(0, self.weight.shape[0], self.chunk):
            packed, inverse, free, tile = self.load(begin)
            safe = tile.where(tile != -INF, 0.0)
            logits = rule_value(self.rule, safe, self.threshold, self.hard_t) * self.scale
            probability = (logits - lse[:, None]).clamp_max(88.0).exp() * (tile != -INF) * (lse != -INF)[:, None]
            slopes = rule_slope(self.rule, safe, self.threshold, self.hard_t)
            gradient = probability * (grad / unit)[:, None] * self.scale * slopes
            for i, row in enumerate((self.excluded - begin).tolist()):
                for column in set(row):
                    if 0 <= column < tile.shape[1]:
                        equal = [e for c, e in zip(row, excluded_grad[i], strict=True) if c == column]
                        gradient[i, column] = torch.stack(equal).sum() / unit
            dx += self.multiply(gradient, packed)
            rows_grad = self.multiply(gradient.t(), self.x)
            w = self.weight[begin : begin + self.chunk]
            along = (rows_grad * w).sum(1) * inverse.square() * free
            gradient = (rows_grad - along[:, None] * w) * inverse[:, None] * unit
            if step is not None:
                step(begin, w, gradient)
            dweight[begin : begin + self.chunk] = gradient
        return dx * unit, dweight


class Step:
    """step_value of step_kernels.cuh over the rows of a chunk."""

    def __init__(self, numbers: RowStep, moments: list[Tensor]) -> None:
        self.n, self.moments = numbers, moments

    def __call__(self, begin: int, w: Tensor, gradient: Tensor) -> None:
        n, (first, *second) = self.n, [m[begin : begin + len(w)] for m in self.moments]
        if second:
            mean = first + (1 - n.momentum) * (gradient - first)
            square = n.beta2 * second[0] + (1 - n.beta2) * gradient * gradient
            change = n.lr / n.correction1 * mean / ((square / n.correction2).sqrt() + n.eps)
            w.mul_(1 - n.lr * n.weight_decay).sub_(change)
            second[0].copy_(square)
        else:
            gradient = gradient + n.weight_decay * w
            mean = n.momentum * first.float() + gradient
            w.sub_(n.lr * (gradient + n.momentum * mean if n.nesterov else mean))
        classes = torch.arange(begin, begin + len(w)) + n.first_class
        first.copy_(stochastic_bf16(mean, n.rounding_key, classes) if first.dtype == torch.bfloat16 else mean)


CASES = [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
# (B, D, C), (tile bytes, least, most chunk): several chunks with a ragged end, one chunk, fewer columns than threads
TILINGS = [
    ((9, 128, 2500), (16 << 20, 1024, 1024)),
    ((128, 96, 700), (128 << 10, 256, 8192)),
    ((1, 256, 3), (16 << 20, 1024, 8192)),
]


@pytest.mark.parametrize(("operand", "tolerance"), CASES, ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("shape", "sizes"), TILINGS, ids=str)
def test_walk_against_float64(
    shape: tuple[int, int, int], sizes: tuple[int, int, int], rule: str, operand: torch.dtype, tolerance: float
) -> None:
    inputs = make(shape, rule, excluded=2)
    # no cosine at the kink or jump that rounding could move across
    if rule in ("bound", "zero_above", "hard") and operand != torch.float32:
        inputs.options["threshold"] = torch.full((shape[0],), 0.95, dtype=torch.float64)
    if rule == "clamp" and operand != torch.float32:
        inputs.x *= 0.6
    inputs.options["excluded"][0, 1] = inputs.options["excluded"][0, 0]
    truth = expected(inputs, "cpu", "fp32")
    walk = Walk(inputs, operand, sizes)
    upstream = (t.float() for t in (truth[0], inputs.grad_neg, inputs.excluded_grad))
    values = (walk.forward(), *walk.backward(*upstream))
    for name, value, exact in zip(("neg", "dx", "dweight"), values, truth, strict=True):
        assert error(value, exact) <= tolerance, name


STEPS = {
    "sgd": RowStep("sgd", lr=0.1, weight_decay=5e-3, momentum=0.9, rounding_key=77, first_class=10),
    "nesterov": RowStep("sgd", lr=0.1, momentum=0.9, nesterov=True),
    "adamw": RowStep("adamw", 0.01, 0.1, momentum=0.9, beta2=0.95, eps=1e-6, correction1=0.1, correction2=0.05),
}


def moments_of(name: str, weight: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Moments that are not zero, with a mean far from zero for the first."""
    g = torch.Generator().manual_seed(11)
    first = 0.3 + 0.1 * torch.randn(weight.shape, generator=g)
    second = torch.rand(weight.shape, generator=g) + 0.5
    return [first.to(dtype), second.to(weight.dtype)][: 2 if name == "adamw" else 1]


def stepped(inputs: Inputs, name: str, dtype: torch.dtype, device: str, compute_dtype: str) -> tuple[Tensor, ...]:
    """dx, the change of the weights and the moments after the operator's step on a device."""
    options: dict[str, Any] = {
        k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.options.items() if k != "excluded"
    }
    tensors = (inputs.x, inputs.weight, inputs.grad_neg, inputs.options["excluded"], inputs.excluded_grad)
    x, w, grad, excluded, excluded_grad = (t.to(device) for t in tensors)
    neg = cosine_logsumexp_forward(x, w, excluded=excluded, compute_dtype=compute_dtype, **options)
    moved, moments = w.clone(), [m.to(device) for m in moments_of(name, inputs.weight, dtype)]
    more = {**options, "compute_dtype": compute_dtype, "moments": moments, "step": STEPS[name]}
    dx, _ = cosine_logsumexp_step(x, moved, neg, grad, excluded, excluded_grad, **more)
    return dx.cpu(), (moved - w).cpu(), *(m.cpu() for m in moments)


@pytest.mark.parametrize(("operand", "tolerance"), CASES, ids=str)
@pytest.mark.parametrize("name", list(STEPS))
@pytest.mark.parametrize(("shape", "sizes"), TILINGS[:2], ids=str)
def test_step_of_the_walk(
    shape: tuple[int, int, int], sizes: tuple[int, int, int], name: str, operand: torch.dtype, tolerance: float
) -> None:
    inputs = make(shape, excluded=2)
    truth = stepped(inputs, name, torch.float64, "cpu", "fp32")
    walk, moments = Walk(inputs, operand, sizes), moments_of(name, inputs.weight.float(), torch.float32)
    before = walk.weight.clone()
    upstream = (t.float() for t in (walk.forward(), inputs.grad_neg, inputs.excluded_grad))
    dx, _ = walk.backward(*upstream, Step(STEPS[name], moments))
    for value, exact in zip((dx, walk.weight - before, *moments), truth, strict=True):
        assert error(value, exact) <= tolerance


def expected(inputs: Inputs, device: str, compute_dtype: str) -> tuple[Tensor, ...]:
    """The operator's own values on a device."""
    options: dict[str, Any] = {
        k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.options.items() if k != "excluded"
    }
    options["compute_dtype"] = compute_dtype
    tensors = (inputs.x, inputs.weight, inputs.grad_neg, inputs.options["excluded"], inputs.excluded_grad)
    x, w, grad, excluded, excluded_grad = (t.to(device) for t in tensors)
    neg = cosine_logsumexp_forward(x, w, excluded=excluded, **options)
    dx, dw, _ = cosine_logsumexp_backward(x, w, neg, grad, excluded, excluded_grad, **options)
    return neg.cpu(), dx.cpu(), dw.cpu()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compute_dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [t[0] for t in TILINGS] + [(257, 512, 20_001)], ids=str)
def test_kernels_on_the_device(shape: tuple[int, int, int], rule: str, compute_dtype: str) -> None:
    inputs = make(shape, rule, excluded=2)
    if rule in ("zero_above", "hard") or (rule == "bound" and compute_dtype != "fp32"):
        inputs.options["threshold"] = torch.full((shape[0],), 0.95, dtype=torch.float64)
    if rule == "clamp":
        inputs.x *= 0.6
    truth = expected(inputs, "cpu", "fp32")
    tolerance = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}[compute_dtype]
    for value, exact in zip(expected(inputs.as_dtype(torch.float32), "cuda", compute_dtype), truth, strict=True):
        assert error(value, exact) <= tolerance


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compute_dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("moment", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(STEPS))
def test_step_on_the_device(name: str, moment: torch.dtype, compute_dtype: str) -> None:
    inputs = make((257, 512, 20_001), excluded=2)
    truth = stepped(inputs, name, torch.float64, "cpu", "fp32")
    found = stepped(inputs.as_dtype(torch.float32), name, moment, "cuda", compute_dtype)
    tolerance = 1e-5 if compute_dtype == "fp32" and moment == torch.float32 else 1e-2
    for value, exact in zip(found, truth, strict=True):
        assert error(value, exact) <= tolerance


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_in_a_graph() -> None:
    """Forward, backward and step wait for nothing: a CUDA graph records them, and its replay gives the eager numbers."""
    inputs = make((64, 128, 5000)).as_dtype(torch.float32)
    x, weight = inputs.x.cuda(), inputs.weight.cuda()
    excluded, grad, excluded_grad = (
        t.cuda() for t in (inputs.options["excluded"], inputs.grad_neg, inputs.excluded_grad)
    )
    options: dict[str, Any] = {"scale": 16.0, "compute_dtype": "bf16"}

    def run(w: Tensor, moment: Tensor) -> tuple[Tensor, ...]:
        neg = cosine_logsumexp_forward(x, w, excluded=excluded, **options)
        dx, dw, _ = cosine_logsumexp_backward(x, w, neg, grad, excluded, excluded_grad, **options)
        more = {**options, "moments": [moment], "step": STEPS["sgd"]}
        cosine_logsumexp_step(x, w, neg, grad, excluded, excluded_grad, **more)
        return neg, dx, dw

    eager_weight, eager_moment = weight.clone(), torch.zeros_like(weight)
    for _ in range(3):
        eager = run(eager_weight, eager_moment)
    replayed_weight, replayed_moment = weight.clone(), torch.zeros_like(weight)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(weight.clone(), torch.zeros_like(weight))  # libraries wake up outside the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(replayed_weight, replayed_moment)
    for _ in range(3):
        graph.replay()
    for value, exact in zip((*captured, replayed_weight), (*eager, eager_weight), strict=True):
        torch.testing.assert_close(value, exact)
