"""Masked feature aggregation: the fused operator against eager PyTorch and torch.compile, forward and backward.

Cases are the four stages of an iResNet at 112 pixels and of a LightCNN at 128, with both activations and all four
arithmetics; for inference the form with batch norm and PReLU folded in, and pooling over the regions of a label map. The
implementations of a case take turns and the least time of each counts, so that other work on the machine meets all alike;
where there is much of it, `--clock cpu --threads 1` counts the time that the process really ran.
On CUDA the kernels' memory traffic is also given beside that of a copy measured in the same run: the ratio is the
fraction of the copy's bandwidth.

    python benchmarks/mask_aggregate.py --json                          # all cases: B = 64 and 256
    python benchmarks/mask_aggregate.py --quick --peers eager           # a few small ones
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from _rows import parser, row, show
from torch import Tensor
from torch.nn import functional as F

STAGES = [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]  # iResNet
STAGES += [(48, 64, 64), (96, 32, 32), (192, 16, 16), (128, 8, 8)]  # LightCNN
RULES = list(product(("sigmoid", "tanh"), ("add", "sub", "mul", "div")))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
REGIONS = 11
Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One measurement: what it is called, and each implementation as a call without arguments."""

    name: str
    implementations: dict[str, Step]


def eager(y: Tensor, a: Tensor, activation: str, arith: str) -> Tensor:
    """The formula as a module would write it."""
    m = torch.sigmoid(a) if activation == "sigmoid" else torch.tanh(a)
    p = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}[arith](y, m)
    return p + y


def eager_folded(y: Tensor, h: Tensor, t: Tensor, norm: list[Tensor], slope: Tensor) -> Tensor:
    """Batch norm in evaluation mode, residual, PReLU, tanh mask."""
    return eager(y, F.prelu(F.batch_norm(h, *norm, training=False) + t, slope), "tanh", "add")


def eager_pool(features: Tensor, labels: Tensor) -> Tensor:
    """One-hot masks and a matrix product."""
    masks = F.one_hot(labels, REGIONS).to(features.dtype).flatten(1, 2)
    return features.flatten(2) @ masks / masks.sum(1).clamp(min=1)[:, None]


def with_gradients(function: Callable[..., Tensor], leaves: tuple[Tensor, ...], grad: Tensor) -> Step:
    """Forward and backward of a function of the leaves."""
    return lambda: torch.autograd.grad(function(*leaves), leaves, grad)


class Cases:
    """Builds the cases of one device; a peer that is not asked for is left out."""

    def __init__(self, device: str, peers: list[str]) -> None:
        self.device, self.peers = device, peers
        self.compiled = {rule: self._compile(lambda y, a, r=rule: eager(y, a, *r)) for rule in RULES}

    def _compile(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # one C++ compilation takes half a minute, one of a GPU kernel a second
        return torch.compile(function, dynamic=self.device == "cpu")

    def _random(self, shape: tuple[int, ...], dtype: torch.dtype, grad: bool = False) -> Tensor:
        return torch.randn(shape, device=self.device).to(dtype).requires_grad_(grad)

    def aggregate(self, shape: tuple[int, ...], rule: tuple[str, str], dtype: str) -> Case:
        """Forward and backward of one activation and arithmetic."""
        from facex.ops import mask_aggregate

        y, a = (self._random(shape, DTYPES[dtype], True) for _ in range(2))
        grad = self._random(shape, DTYPES[dtype])
        activation, arith = rule
        functions: dict[str, Callable[..., Tensor]] = {
            "facex": lambda y, a: mask_aggregate(y, a, activation=activation, arith=arith),
            "eager": lambda y, a: eager(y, a, *rule),
            "torch.compile": self.compiled[rule],
        }
        steps = {
            name: with_gradients(f, (y, a), grad) for name, f in functions.items() if name in ("facex", *self.peers)
        }
        return Case(f"mask_aggregate forward+backward {activation} {arith} {label(shape)} {dtype}", steps)

    def folded(self, shape: tuple[int, ...], dtype: str) -> Case:
        """Inference with batch norm and PReLU folded in."""
        from facex.ops import mask_aggregate_folded

        y, h, t = (self._random(shape, DTYPES[dtype]) for _ in range(3))
        norm = [torch.rand(shape[1], device=self.device) + 0.5 for _ in range(4)]
        slope = torch.full((shape[1],), 0.25, device=self.device)
        scale = norm[2] / (norm[1] + 1e-5).sqrt()
        shift = norm[3] - norm[0] * scale
        steps: dict[str, Step] = {
            "facex": lambda: mask_aggregate_folded(y, h, t, scale, shift, slope, activation="tanh", arith="add"),
            "eager": lambda: eager_folded(y, h, t, [n.to(h.dtype) for n in norm], slope.to(h.dtype)),
        }
        return Case(f"mask_aggregate_folded forward tanh add {label(shape)} {dtype}", steps)

    def pooling(self, shape: tuple[int, ...], dtype: str) -> Case:
        """Pooling over a label map, forward and backward."""
        from facex.ops import region_pool

        features = self._random(shape, DTYPES[dtype], True)
        labels = torch.randint(0, REGIONS, (shape[0], *shape[2:]), device=self.device)
        grad = self._random((shape[0], REGIONS, shape[1]), DTYPES[dtype])
        ours = with_gradients(lambda f: region_pool(f, labels, REGIONS)[0], (features,), grad)
        peer = with_gradients(lambda f: eager_pool(f, labels), (features,), grad.transpose(1, 2))
        return Case(
            f"region_pool forward+backward {REGIONS} regions {label(shape)} {dtype}", {"facex": ours, "eager": peer}
        )


def label(shape: tuple[int, ...]) -> str:
    """A shape as text: 64x128x28x28."""
    return "x".join(map(str, shape))


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, float]:
    """Least milliseconds of each implementation, which take turns."""
    now = time.process_time if arguments.clock == "cpu" else time.perf_counter
    best = dict.fromkeys(case.implementations, float("inf"))
    for turn in range(arguments.repeats + 2):
        for name, step in case.implementations.items():
            start = now()
            step()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:  # compilation and allocation come first
                best[name] = min(best[name], (now() - start) * 1e3)
    return best


def events_ms(step: Step, repeats: int) -> float:
    """Milliseconds of a call on the GPU itself, the mean of many that are queued at once."""
    step()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(repeats):
        step()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / repeats


def bandwidth(shape: tuple[int, ...], rule: tuple[str, str], dtype: str, repeats: int) -> tuple[float, float]:
    """(ours, a copy's) bytes of tensors read and written a second, in GB/s, of the two kernels of one case."""
    y, a, g = (torch.randn(shape, device="cuda").to(DTYPES[dtype]) for _ in range(3))
    options = (*rule, True, 0.0)

    def kernels() -> None:
        torch.ops.facex.mask_aggregate(y, a, None, *options)
        torch.ops.facex.mask_aggregate_backward(g, y, a, *options, True, True)

    accesses = 3 + (5 if rule[1] in ("mul", "div") else 4)
    out = torch.empty_like(y)
    ours, copy = events_ms(kernels, repeats), events_ms(lambda: out.copy_(y), repeats)
    return accesses * y.nbytes / ours / 1e6, 2 * y.nbytes / copy / 1e6


def rows_of(case: Case, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """A row for each peer."""
    threads = torch.get_num_threads()
    name = f"cpu, {threads} thread{'s' * (threads > 1)}" if arguments.device == "cpu" else torch.cuda.get_device_name()
    times = measure(case, arguments)
    ours = times.pop("facex")
    metric = "milliseconds" if arguments.clock == "wall" else "cpu_milliseconds"
    return [row(case.name, name, metric, ours, value, peer) for peer, value in times.items()]


def all_rows(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Every case that was asked for."""
    cases, rows = Cases(arguments.device, arguments.peers), []
    stages, rules = (STAGES[3::4], RULES[2:5:2]) if arguments.quick else (STAGES, RULES)
    for dtype, batch, stage in product(arguments.dtypes, arguments.batch, stages):
        shape = (batch, *stage)
        for rule in rules:
            rows += rows_of(cases.aggregate(shape, rule, dtype), arguments)
            if arguments.device == "cuda":
                ours, copy = bandwidth(shape, rule, dtype, 50)
                name = f"mask_aggregate kernels {' '.join(rule)} {label(shape)} {dtype}"
                # the fraction of the copy's bandwidth is the ratio
                line = row(name, torch.cuda.get_device_name(), "GB_per_second", ours, copy, "copy", more_is_better=True)
                rows.append(line)
        with torch.no_grad():
            rows += rows_of(cases.folded(shape, dtype), arguments)
        rows += rows_of(cases.pooling(shape, dtype), arguments)
    return rows


def main() -> None:
    """Parse the command line, measure, print."""
    options = parser(__doc__)
    cuda = torch.cuda.is_available()
    options.add_argument("--batch", type=int, nargs="+", default=None, help="images a batch (64 256)")
    options.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"] if cuda else ["fp32"], choices=sorted(DTYPES))
    options.add_argument("--device", default="cuda" if cuda else "cpu", choices=["cpu", "cuda"])
    options.add_argument("--peers", nargs="+", default=["eager", "torch.compile"], choices=["eager", "torch.compile"])
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--threads", type=int, default=None, help="CPU threads (PyTorch's choice unless given)")
    options.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    options.add_argument("--quick", action="store_true", help="the smallest stages, two rules, B = 4")
    arguments = options.parse_args()
    arguments.batch = arguments.batch or ([4] if arguments.quick else [64, 256])
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.clock == "cpu" and arguments.device != "cpu":
        options.error("--clock cpu measures nothing of a GPU")
    torch._dynamo.config.recompile_limit = 1000
    torch.manual_seed(0)
    show(all_rows(arguments), arguments.json)


if __name__ == "__main__":
    main()
