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

from facex.ops import cosine_logsumexp_backward, cosine_logsumexp_forward
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

    def backward(self, lse: Tensor, grad: Tensor, excluded_grad: Tensor) -> tuple[Tensor, Tensor]:
        """backward_tile, the two products and finish_rows."""
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
            dweight[begin : begin + self.chunk] = (rows_grad - along[:, None] * w) * inverse[:, None] * unit
        return dx * unit, dweight


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
