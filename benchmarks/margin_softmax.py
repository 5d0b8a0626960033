"""Margin softmax, forward and backward: facex's operator against the loss written with F.linear and F.cross_entropy.

Each implementation runs in a process of its own, one after the other in the same run: time is the least of `--repeats`,
memory the growth of the process's peak over what weights and their gradient take (on CUDA, of the allocator's peak).
The other peer is the speed of light: the four matrix products alone, chunk by chunk, by the GEMM library.

    python benchmarks/margin_softmax.py --json                      # B=128, D=512, C=1e6
    python benchmarks/margin_softmax.py --quick                     # C=1e5
    python benchmarks/margin_softmax.py --classes 93431 620000 --batch 1024 --device cuda
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _rows import parser, row, show
from torch import Tensor
from torch.nn import functional as F

SCALE, MARGIN = 64.0, 0.5
GEMM_CHUNK = 1024


def arcface_target(cosine: Tensor) -> Tensor:
    """cos(theta + m): the target's logit / scale."""
    sine = (1.0 - cosine.square()).clamp_min(0.0).sqrt()
    return cosine * math.cos(MARGIN) - sine * math.sin(MARGIN)


def ours(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Callable[[], Tensor]:
    """The loss and its gradients as MarginHead computes them on one rank."""
    from facex.ops import cosine_logsumexp_backward, cosine_logsumexp_forward, target_cosine

    columns = labels[:, None]

    def step() -> Tensor:
        embedding = x.detach().requires_grad_()
        unit = F.normalize(embedding)
        with torch.no_grad():
            cosine = target_cosine(unit, weight, columns)[:, 0]
            neg = cosine_logsumexp_forward(unit, weight, scale=SCALE, excluded=columns, compute_dtype=dtype)
        cosine.requires_grad_()
        neg.requires_grad_()
        loss = F.softplus(neg - SCALE * arcface_target(cosine)).mean()
        loss.backward()
        dx, dweight, _ = cosine_logsumexp_backward(
            unit.detach(),
            weight,
            neg.detach(),
            neg.grad,  # type: ignore[arg-type]
            columns,
            cosine.grad[:, None],  # type: ignore[index]
            scale=SCALE,
            compute_dtype=dtype,
        )
        unit.backward(dx)
        return dweight

    return step


def eager(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Callable[[], Tensor]:
    """The usual way: all logits, a margin on the target's, cross_entropy."""

    def step() -> Tensor:
        embedding, leaf = x.detach().requires_grad_(), weight.detach().requires_grad_()
        unit, rows = F.normalize(embedding), F.normalize(leaf)
        if dtype == "fp32":
            cosine = F.linear(unit, rows)
        else:
            cosine = F.linear(unit.bfloat16(), rows.bfloat16()).float()
        target = cosine.gather(1, labels[:, None])
        logits = cosine.scatter(1, labels[:, None], arcface_target(target)) * SCALE
        F.cross_entropy(logits, labels).backward()
        return leaf.grad  # type: ignore[return-value]

    return step


def products(x: Tensor, weight: Tensor, labels: Tensor, dtype: str) -> Callable[[], Tensor]:
    """The four products of forward and backward with recomputation, chunk by chunk, nothing else."""
    operand = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    a = x.to(operand)
    chunk = GEMM_CHUNK if x.device.type == "cpu" else 8192
    rows = weight[: 16 * chunk].to(operand).split(chunk)  # a few chunks again and again: their memory does not count
    tile = torch.empty(x.shape[0], chunk, dtype=operand, device=x.device)
    gradient = torch.empty(chunk, x.shape[1], dtype=operand, device=x.device)

    def step() -> Tensor:
        for i in range(weight.shape[0] // chunk):
            w = rows[i % len(rows)]
            if w.shape[0] < chunk:
                continue
            torch.mm(a, w.t(), out=tile)
            torch.mm(a, w.t(), out=tile)
            torch.mm(tile, w)
            torch.mm(tile.t(), a, out=gradient)
        return gradient

    return step


IMPLEMENTATIONS = {"facex": ours, "eager": eager, "gemm": products}


def peak_bytes(device: str) -> int:
    """The peak so far: of the allocator on CUDA, of the process otherwise."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worker(name: str, dtype: str, batch: int, dim: int, classes: int, device: str, repeats: int) -> dict[str, Any]:
    """Measure one implementation in this process."""
    torch.manual_seed(0)
    build = IMPLEMENTATIONS[name]
    x = torch.randn(batch, dim, device=device)
    labels = torch.randint(0, classes, (batch,), device=device)
    small = min(classes, 2048)
    build(x, torch.randn(small, dim, device=device), labels % small, dtype)()  # libraries and threads wake up
    weight = torch.empty(classes, dim, device=device).normal_(std=0.01)
    before, step, seconds = peak_bytes(device), build(x, weight, labels, dtype), []
    for repeat in range(repeats):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if repeat == 0:
            extra = peak_bytes(device) - before - weight.nbytes
    return {"seconds": min(seconds), "extra_mb": max(0.0, extra / 2**20)}


def measure(arguments: argparse.Namespace, name: str, dtype: str, classes: int) -> dict[str, Any] | None:
    """Run a worker process; None when it ran out of memory."""
    command = [sys.executable, __file__, "--worker", name, "--dtypes", dtype, "--classes", str(classes)]
    command += ["--batch", str(arguments.batch), "--dim", str(arguments.dim), "--device", arguments.device]
    run = subprocess.run([*command, "--repeats", str(arguments.repeats)], capture_output=True, text=True)
    if run.returncode == 0:
        return json.loads(run.stdout.splitlines()[-1])
    if run.returncode == -9 or "OutOfMemoryError" in run.stderr or "not enough memory" in run.stderr:
        return None
    sys.exit(f"{' '.join(command)} failed:\n{run.stderr}")


def compare(arguments: argparse.Namespace, classes: int) -> list[dict[str, Any]]:
    """All rows for one number of classes: every dtype of ours against the fp32 eager peer and the products alone."""
    device = arguments.device if arguments.device == "cpu" else torch.cuda.get_device_name()
    peer = measure(arguments, "eager", "fp32", classes)
    rows = []
    for dtype in arguments.dtypes:
        case = f"margin_softmax forward+backward B={arguments.batch} D={arguments.dim} C={classes} {dtype}"
        mine, gemm = measure(arguments, "facex", dtype, classes), measure(arguments, "gemm", dtype, classes)
        if mine is None or gemm is None:
            sys.exit(f"{case}: facex itself ran out of memory")
        name = "F.linear + margin + F.cross_entropy, fp32" + (" (out of memory)" if peer is None else "")
        seconds, memory = (None, None) if peer is None else (peer["seconds"], peer["extra_mb"])
        rows.append(row(case, device, "seconds", mine["seconds"], seconds, name))
        rows.append(row(case, device, "extra_memory_mb", mine["extra_mb"], memory, name))
        rows.append(row(case, device, "seconds", mine["seconds"], gemm["seconds"], f"chunked library GEMMs, {dtype}"))
    return rows


def main() -> None:
    """Parse the command line, measure, print."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--dim", type=int, default=512)
    options.add_argument("--classes", type=int, nargs="+", default=None)
    options.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--quick", action="store_true", help="C = 100,000")
    options.add_argument("--worker", choices=sorted(IMPLEMENTATIONS), help=argparse.SUPPRESS)
    arguments = options.parse_args()
    sizes = arguments.classes or [100_000 if arguments.quick else 1_000_000]
    if arguments.worker:
        shape = (arguments.batch, arguments.dim, sizes[0], arguments.device, arguments.repeats)
        print(json.dumps(worker(arguments.worker, arguments.dtypes[0], *shape)))
        return
    show([line for classes in sizes for line in compare(arguments, classes)], arguments.json)


if __name__ == "__main__":
    main()
