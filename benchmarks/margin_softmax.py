"""Margin softmax, forward and backward: facex's operator against eager PyTorch, PartialFC, and the matrix products alone.

Each implementation runs in a process of its own, one after the other in the same run: time is the least of `--repeats`,
memory the growth of the process's peak over what weights and their gradient take (on CUDA, of the allocator's peak). The
GEMM peer is the speed of light: the four products alone, chunk by chunk; its ratio is the fraction of the matrix unit's rate
that the whole loss achieves. The rows "with SGD" compare the optimizer's step inside the backward pass with a gradient that is
stored and torch.optim.SGD; there the gradient counts as extra memory. A peer that runs out of memory is recorded as such.

    python benchmarks/margin_softmax.py --json                      # CPU: B=128, D=512, C=1e6; CUDA: the whole grid
    python benchmarks/margin_softmax.py --quick                     # C=1e5
    python benchmarks/margin_softmax.py --classes 93431 620000 --batch 1024 8192 --device cuda
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from _margin_peers import PEERS
from _rows import parser, row, show

GRID_BATCHES = [128, 1024, 8192]
GRID_CLASSES = [10_000, 93_431, 620_000, 2_060_000, 10_000_000, 29_000_000]
CHOICES = ["eager", "partial_fc", "cce", "liger"]


def peak_bytes(device: str) -> int:
    """The peak so far: of the allocator on CUDA, of the process otherwise."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worker(name: str, dtype: str, batch: int, dim: int, classes: int, device: str, repeats: int) -> dict[str, Any]:
    """Measure one implementation in this process."""
    torch.manual_seed(0)
    peer = PEERS[name]
    x = torch.randn(batch, dim, device=device)
    labels = torch.randint(0, classes, (batch,), device=device)
    small = min(classes, 2048)
    peer.build(x, torch.randn(small, dim, device=device), labels % small, dtype)()  # libraries and threads wake up
    weight = torch.empty(classes, dim, device=device).normal_(std=0.01)
    before, step, seconds = peak_bytes(device), peer.build(x, weight, labels, dtype), []
    for repeat in range(repeats):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if repeat == 0:
            extra = peak_bytes(device) - before - weight.numel() * peer.kept
    return {"seconds": min(seconds), "extra_mb": max(0.0, extra / 2**20)}


def measure(arguments: argparse.Namespace, name: str, dtype: str, batch: int, classes: int) -> dict[str, Any] | str:
    """A worker's result, or why there is none."""
    missing = PEERS[name].missing(arguments.device)
    if missing:
        return missing
    command = [sys.executable, __file__, "--worker", name, "--dtypes", dtype, "--classes", str(classes)]
    command += ["--batch", str(batch), "--dim", str(arguments.dim), "--device", arguments.device]
    run = subprocess.run([*command, "--repeats", str(arguments.repeats)], capture_output=True, text=True)
    if run.returncode == 0:
        return json.loads(run.stdout.splitlines()[-1])
    if run.returncode == -9 or "OutOfMemoryError" in run.stderr or "not enough memory" in run.stderr:
        return "out of memory"
    sys.exit(f"{' '.join(command)} failed:\n{run.stderr}")


def against(
    case: str, device: str, mine: dict[str, Any], peer: dict[str, Any] | str, title: str
) -> list[dict[str, Any]]:
    """Rows of time and memory."""
    if isinstance(peer, str):
        return [row(case, device, "seconds", mine["seconds"], None, f"{title} ({peer})")]
    pairs = (("seconds", "seconds"), ("extra_memory_mb", "extra_mb"))
    return [row(case, device, metric, mine[key], peer[key], title) for metric, key in pairs]


def compare(arguments: argparse.Namespace, batch: int, classes: int) -> list[dict[str, Any]]:
    """All rows of one shape: ours in every dtype against each peer in that dtype, and the eager one in fp32 too."""
    device = arguments.device if arguments.device == "cpu" else torch.cuda.get_device_name()
    rows, first = (
        [],
        {name: measure(arguments, name, "fp32", batch, classes) for name in arguments.peers if name == "eager"},
    )
    for dtype in arguments.dtypes:
        shape = f"B={batch} D={arguments.dim} C={classes} {dtype}"
        case = f"margin_softmax forward+backward {shape}"
        mine = measure(arguments, "facex", dtype, batch, classes)
        if isinstance(mine, str):
            print(f"{case}: facex: {mine}", file=sys.stderr)
        else:
            for name in arguments.peers:
                peer = first[name] if name == "eager" else measure(arguments, name, dtype, batch, classes)
                title = f"{PEERS[name].title}, {'fp32' if name == 'eager' else dtype}"
                rows += against(case, device, mine, peer, title)
            gemm = measure(arguments, "gemm", dtype, batch, classes)
            title = f"{PEERS['gemm'].title}, {dtype}"
            rows += against(case, device, mine, gemm, title)[:1]
        rows += stepping(arguments, dtype, batch, classes, device, shape)
    return rows


def stepping(
    arguments: argparse.Namespace, dtype: str, batch: int, classes: int, device: str, shape: str
) -> list[dict[str, Any]]:
    """The step inside the backward pass against the gradient followed by the optimizer."""
    case = f"margin_softmax forward+backward with SGD {shape}"
    mine = measure(arguments, "facex_step", dtype, batch, classes)
    if isinstance(mine, str):
        print(f"{case}: facex: {mine}", file=sys.stderr)
        return []
    return against(case, device, mine, measure(arguments, "sgd", dtype, batch, classes), PEERS["sgd"].title)


def main() -> None:
    """Parse the command line, measure, print."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, nargs="+", default=None)
    options.add_argument("--dim", type=int, default=512)
    options.add_argument("--classes", type=int, nargs="+", default=None)
    options.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options.add_argument("--peers", nargs="*", default=CHOICES, choices=CHOICES)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--quick", action="store_true", help="B = 128, C = 100,000")
    options.add_argument("--worker", choices=sorted(PEERS), help=argparse.SUPPRESS)
    arguments = options.parse_args()
    grid = arguments.device == "cuda" and not arguments.quick
    batches = arguments.batch or (GRID_BATCHES if grid else [128])
    sizes = arguments.classes or (GRID_CLASSES if grid else [100_000 if arguments.quick else 1_000_000])
    if arguments.worker:
        shape = (batches[0], arguments.dim, sizes[0], arguments.device, arguments.repeats)
        print(json.dumps(worker(arguments.worker, arguments.dtypes[0], *shape)))
        return
    show([line for batch in batches for c in sizes for line in compare(arguments, batch, c)], arguments.json)


if __name__ == "__main__":
    main()
