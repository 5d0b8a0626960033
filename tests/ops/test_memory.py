"""No form of the operator makes a tensor of B x C numbers: peak memory of a process of its own, and of PyTorch's
allocations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# B x C in fp32 is 400 MB, weights and gradient 16 MB each; the tile and everything else must stay far below.
SCRIPT = """
import resource, sys, threading, torch
from facex.ops import cosine_logsumexp, extension
extension()
x = torch.nn.functional.normalize(torch.randn(256, 10)).requires_grad_()
w = torch.randn(400_000, 10).requires_grad_()
labels = torch.randint(0, 400_000, (256, 1))
impl, compute_dtype = sys.argv[1:]
small = cosine_logsumexp(x, w[:2000], scale=64.0, excluded=None, impl=impl, compute_dtype=compute_dtype)
small.sum().backward()
w.grad = None


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20


before = peak = resident()
done = threading.Event()


def watch():  # the kernel's own peak counts from the process's start, imports included
    global peak
    while not done.wait(0.001):
        peak = max(peak, resident())


watcher = threading.Thread(target=watch)
watcher.start()
cosine_logsumexp(x, w, scale=64.0, excluded=labels, impl=impl, compute_dtype=compute_dtype).sum().backward()
done.set()
watcher.join()
print(peak - before)
"""
ROOT = Path(__file__).resolve().parents[2]


def peak_growth(impl: str, compute_dtype: str) -> int:
    """MB by which a forward and backward pass raise the process's resident memory at most."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, impl, compute_dtype]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return int(run.stdout)


@pytest.mark.parametrize(("impl", "compute_dtype"), [("fused", "fp32"), ("fused", "bf16"), ("generic", "fp32")])
def test_no_logits_are_stored(impl: str, compute_dtype: str) -> None:
    assert peak_growth(impl, compute_dtype) < 100


def test_the_measurement_sees_logits() -> None:
    """The plain PyTorch reference does store them: the test above can fail."""
    assert peak_growth("reference", "fp32") > 400
