"""LAFS: patch sampling, the self-distillation loss, a step of pre-training and CosFace with mixup, against plain implementations.

Each implementation runs in a process of its own, one after the other: time is the least of `--repeats`, memory the growth of the
process's peak over what was there before the first step (on CUDA, of the allocator's). `--clock cpu` counts the processor's time, for
machines on which others work.

    python benchmarks/lafs.py --json                       # on a GPU: the published batch of 82 pictures x 10 views
    python benchmarks/lafs.py --quick --clock cpu --json   # small sizes, but patch sampling at B = 64, N = 196
    python benchmarks/lafs.py --tiny --json                # a few seconds
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from _lafs_peers import Sizes, plain_cosface, plain_dino_loss, plain_patches, plain_step
from _rows import row, run_cases
from torch import Tensor, nn

Step = Callable[[], Any]
TEMPERATURES = (0.1, 0.05)


def patches(scale: dict[str, Any], device: str, who: str, backward: bool) -> Step:
    """Sampling 196 patches of each picture, with gradients to pictures and landmarks."""
    batch, count = scale["patches"]
    images = torch.rand(batch, 3, 112, 112, device=device, requires_grad=backward)
    landmarks = (torch.rand(batch, count, 2, device=device) * 111).requires_grad_(backward)
    upstream = torch.randn(batch, count, 192, device=device)
    if who == "facex":
        from facex.ops import sample_patches as sample
    else:
        sample = plain_patches

    def step() -> Any:
        tokens = sample(images, landmarks)
        return torch.autograd.grad(tokens, (images, landmarks), upstream) if backward else tokens

    return step


def loss(scale: dict[str, Any], device: str, who: str) -> Step:
    """The self-distillation loss and its gradient, from logits in the precision of the run."""
    batch, views, columns = scale["loss"]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    student = torch.randn(views * batch, columns, device=device).to(dtype).requires_grad_()
    teacher, center = torch.randn(2 * batch, columns, device=device).to(dtype), torch.zeros(1, columns, device=device)

    def step() -> Any:
        if who == "facex":
            from facex.ops import dino_loss

            value = dino_loss(student, teacher, center, views, *TEMPERATURES).mean()
        else:
            value = plain_dino_loss(student, teacher, center, views, *TEMPERATURES)
        return torch.autograd.grad(value, student)

    return step


def head(scale: dict[str, Any], device: str, who: str) -> Step:
    """CosFace under mixup with its gradients."""
    batch, dim, classes = scale["head"]
    x, labels = torch.randn(batch, dim, device=device), torch.randint(0, classes, (batch,), device=device)
    weight = torch.empty(classes, dim, device=device).normal_(std=0.01)
    if who == "facex":
        from facex_lafs.finetune import cosface

        from facex.heads import MarginHead

        made = MarginHead(cosface(), dim, classes, group="alone", device=device)
        made.load_weight(weight)
        del weight
        pairs = torch.stack([labels, labels.flip(0)], 1)
        shares = torch.tensor([[0.3, 0.7]], device=device).expand(batch, 2)

        def ours() -> Any:
            leaf = x.detach().requires_grad_()
            made(leaf, pairs, shares).loss.backward()
            made.window.clear()
            return leaf.grad

        return ours

    def plain() -> Any:
        leaf, rows = x.detach().requires_grad_(), weight.detach().requires_grad_()
        plain_cosface(leaf, rows, labels, 0.3).backward()
        return rows.grad

    return plain


def ssl(scale: dict[str, Any], device: str, who: str) -> Step:
    """A step of pre-training on crops that are there: landmarks, patches, both networks, loss, backward, clipping, step, average."""
    from facex_lafs.landmark_views import LandmarkNetwork

    sizes = Sizes(**scale["ssl"])
    views = 2 + sizes.local
    clean = [torch.rand(sizes.batch, 3, 112, 112, device=device) * 2 - 1 for _ in range(views)]
    augmented = [torch.rand_like(c) * 2 - 1 for c in clean]
    network = LandmarkNetwork().to(device).eval()
    autocast = lambda: (  # noqa: E731
        torch.autocast("cuda", torch.bfloat16) if device == "cuda" else contextlib.nullcontext()
    )
    if who == "plain":
        return plain_step(sizes, clean, augmented, network, autocast)
    return our_step(sizes, clean, augmented, network, autocast)


def our_step(sizes: Sizes, clean: list[Tensor], augmented: list[Tensor], network: nn.Module, autocast: Any) -> Step:
    """The same through LAFSPretrain and the trainer's clipping."""
    from facex_lafs.landmark_views import draw_index
    from facex_lafs.pretrain import HeadOptions, LAFSPretrain, ProbeOptions
    from facex_lafs.view_maker import ViewOptions

    from facex.methods import Batch
    from facex.train.clipping import Clipper
    from facex.train.config import ClipConfig, OptimizerConfig
    from facex.train.optim import build_optimizer, resolve_groups

    s, device = sizes, clean[0].device
    shape = {"dim": s.dim, "depth": s.depth, "heads": s.heads, "head_dim": s.head_dim, "mlp_dim": s.mlp}
    quiet = {"dropout": 0.0, "emb_dropout": 0.0, "drop_path": 0.0}
    method = LAFSPretrain(
        backbone_options=shape | quiet,
        views=ViewOptions(local_views=s.local),
        head=HeadOptions(s.out, s.hidden, s.bottleneck),
        probe=ProbeOptions(collapse_patience=0),
    ).to(device)
    method.teacher.requires_grad_(False)
    config: Any = OptimizerConfig("adamw", 1e-4)
    groups = resolve_groups(config, method.param_groups("student"))
    optimizer = build_optimizer(config, groups)
    clipper = Clipper("student", ClipConfig(3.0, "per_tensor"), groups, 0)
    nets = {"student": method.student, "teacher": method.teacher, "landmarks": network}
    ctx: Any = SimpleNamespace(
        nets=nets, epoch=0, step=1, value=lambda name: 0.996, mean=torch.mean, all_reduce=lambda t, op="sum": t
    )
    rows = torch.arange(s.batch, device=device)
    kinds: Any = {}

    def step() -> Any:
        with torch.no_grad():
            landmarks = network(torch.cat(clean)).chunk(len(clean))
            noise = [torch.randn_like(at) for at in landmarks]
            drawn = [draw_index(torch.rand(s.batch, s.sampled, device=device), s.count) for _ in range(s.local)]
            views, positions = method.view_maker.tokens(augmented, landmarks, noise, [None, None, *drawn])
        batch = Batch({}, kinds, "rgb", rows, rows)
        batch.extras.update(views=views, positions=positions)
        with autocast():
            (update,) = method.training_step(batch, ctx)
        update.losses["dino"].backward()
        clipper.clip(None)
        optimizer.step()
        optimizer.zero_grad()
        method.after_update("student", ctx)
        return update.losses["dino"].detach()

    return step


CASES: dict[str, Callable[[dict[str, Any], str, str], Step]] = {
    "patch sampling forward+backward": lambda s, d, w: patches(s, d, w, True),
    "patch sampling forward": lambda s, d, w: patches(s, d, w, False),
    "DINO loss forward+backward": loss,
    "pre-training step": ssl,
    "CosFace with mixup forward+backward": head,
}
PEERS = {
    "patch sampling forward+backward": "196 grid_sample calls and a mosaic",
    "patch sampling forward": "196 grid_sample calls and a mosaic",
    "DINO loss forward+backward": "log_softmax for each of the pairs",
    "pre-training step": "plain PyTorch, the same landmark network",
    "CosFace with mixup forward+backward": "dense soft targets",
}
FULL = {
    "patches": (64, 196),
    "loss": (82, 10, 100_000),
    "head": (200, 768, 205_990),
    "ssl": {"batch": 82, "local": 8, "dim": 768, "depth": 12, "heads": 11, "mlp": 2048, "out": 100_000, "hidden": 2048},
}
QUICK = {
    "patches": (64, 196),
    "loss": (8, 10, 20_000),
    "head": (64, 768, 50_000),
    "ssl": {"batch": 2, "local": 8, "dim": 192, "depth": 4, "heads": 3, "mlp": 512, "out": 10_000, "hidden": 512},
}
TINY = {
    "patches": (2, 196),
    "loss": (2, 4, 500),
    "head": (4, 16, 200),
    "ssl": {"batch": 1, "local": 1, "dim": 32, "depth": 1, "heads": 1, "mlp": 32, "out": 64, "hidden": 32},
}
SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


def describe(case: str, scale: dict[str, Any]) -> str:
    """The case with its sizes."""
    if case.startswith("patch"):
        return f"{case} B={scale['patches'][0]} N={scale['patches'][1]} fp32"
    if case.startswith("DINO"):
        return "{} B={} V={} K={}".format(case, *scale["loss"])
    if case.startswith("CosFace"):
        return "{} B={} D={} C={}".format(case, *scale["head"])
    s = scale["ssl"]
    return f"{case} B={s['batch']} V={2 + s['local']} dim={s['dim']} depth={s['depth']} K={s['out']}"


def peak_bytes(device: str) -> int:
    """The peak so far: of the allocator on CUDA, of the process otherwise."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worker(case: str, who: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one implementation in this process."""
    torch.manual_seed(0)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    CASES[case](TINY, options.device, who)()  # libraries and threads wake up
    step = CASES[case](SCALES[options.scale], options.device, who)
    before, seconds = peak_bytes(options.device), []
    for _ in range(options.repeats):
        start = clock()
        step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return {"seconds": min(seconds), "extra_mb": max(0.0, (peak_bytes(options.device) - before) / 2**20)}


def measure(case: str, who: str, options: argparse.Namespace) -> dict[str, float] | None:
    """Run a worker process; None when it ran out of memory."""
    command = [sys.executable, __file__, "--worker", case, who, "--device", options.device, "--scale", options.scale]
    command += ["--repeats", str(options.repeats), "--clock", options.clock]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode == 0:
        found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
        return found
    if run.returncode == -9 or "OutOfMemoryError" in run.stderr or "not enough memory" in run.stderr:
        return None
    sys.exit(f"{' '.join(command)} failed:\n{run.stderr}")


def compare(case: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time and memory of ours beside the plain one's."""
    device = options.device if options.device == "cpu" else torch.cuda.get_device_name()
    name, peer = describe(case, SCALES[options.scale]), measure(case, "plain", options)
    mine = measure(case, "facex", options)
    if mine is None:
        sys.exit(f"{name}: facex itself ran out of memory")
    label = PEERS[case] + (" (out of memory)" if peer is None else "")
    seconds, memory = (None, None) if peer is None else (peer["seconds"], peer["extra_mb"])
    return [
        row(name, device, "seconds" if options.clock == "wall" else "cpu_seconds", mine["seconds"], seconds, label),
        row(name, device, "extra_memory_mb", mine["extra_mb"], memory, label),
    ]


def main() -> None:
    """Parse the command line, measure, print."""
    run_cases(__doc__, CASES, SCALES, worker, compare)


if __name__ == "__main__":
    main()
