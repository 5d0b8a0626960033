"""FaceT: fine-tuning with ArcFace and masked pre-training, steps and all, against a plain vision transformer with full-matrix ArcFace.

Each implementation runs in a process of its own, one after the other: images/s of the fastest of `--repeats` steps, and the peak of
memory above what was there before anything was built (on CUDA, of the allocator's). Both in bf16 autocast, AdamW, clipping.

    python benchmarks/facet.py --json                      # on a GPU: FaceT-B, 256 pictures, 2.06 M classes
    python benchmarks/facet.py --quick --clock cpu --json  # CPU: FaceT-B, 64 pictures, 100,000 classes (minutes, 6 GB)
    python benchmarks/facet.py --tiny --json               # a few seconds
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from _facet_peers import PlainFaceT, PlainMAE, Sizes, adamw, arcface, source
from _rows import row, run_cases
from torch import Tensor, nn

Step = Callable[[], Any]
FINE, SAMPLED, MAE = "fine-tuning, all classes", "fine-tuning, a tenth of the classes", "masked pre-training"
CASES = (FINE, SAMPLED, MAE)
FULL = Sizes()
QUICK = Sizes(batch=64, classes=100_000)
TINY = Sizes(
    batch=4,
    classes=500,
    dim=32,
    depth=2,
    heads=2,
    prompts=4,
    decoder_dim=16,
    decoder_depth=1,
    decoder_heads=2,
    image=32,
)
SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


def data(s: Sizes, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, flags (half of them masked) and labels."""
    x = torch.rand(s.batch, 3, s.image, s.image, device=device) * 2 - 1
    flags = torch.arange(s.batch, device=device) % 2
    return x, flags, torch.randint(0, s.classes, (s.batch,), device=device)


def autocast(device: str) -> torch.autocast:
    """bf16."""
    return torch.autocast(device, torch.bfloat16)


def plain_tuning(s: Sizes, device: str) -> Step:
    """The plain transformer with a B x C matrix of logits."""
    net = PlainFaceT(s).to(device)
    weight = nn.Parameter(torch.empty(s.classes, s.embedding, device=device).normal_(std=0.01))
    optimizer, (x, flags, labels) = adamw([*net.parameters(), weight], device), data(s, device)

    def step() -> Any:
        with autocast(device):
            loss = arcface(net(x, flags), weight, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def plain_mae(s: Sizes, device: str) -> Step:
    """The plain autoencoder."""
    net = PlainMAE(s).to(device)
    optimizer, (x, _, _) = adamw((p for p in net.parameters() if p.requires_grad), device), data(s, device)

    def step() -> Any:
        with autocast(device):
            loss = net(x)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def our_shape(s: Sizes) -> dict[str, Any]:
    """Constructor arguments of the methods."""
    from facex.methods import InputSpec

    options = {"embed_dim": s.dim, "depth": s.depth, "num_heads": s.heads, "patch_size": s.patch}
    return {
        "embedding_size": s.embedding,
        "input": InputSpec(s.image, s.image),
        "backbone_options": {**options, "residual": "deepnorm"},
    }


def our_context(method: Any, s: Sizes, device: str) -> Any:
    """What a method asks of the trainer in a step."""
    return SimpleNamespace(
        nets=method.networks(),
        rank=0,
        world_size=1,
        mean=torch.mean,
        uniform=lambda stream, *shape: torch.rand(s.batch, *shape, device=device),
    )


def our_optimizer(method: Any, network: str) -> torch.optim.Optimizer:
    """The trainer's, with the method's groups."""
    from facex.train.config import OptimizerConfig
    from facex.train.optim import build_optimizer, resolve_groups

    config: Any = OptimizerConfig("adamw", 1e-4, weight_decay=0.05)
    return build_optimizer(config, resolve_groups(config, method.param_groups(network)))


def our_tuning(s: Sizes, device: str, rate: float) -> Step:
    """JHMFR with the class-sharded head; with all classes their step is taken in the backward pass."""
    from facex_jhmfr import JHMFR

    from facex.heads import MarginHead
    from facex.methods import Batch

    shape = our_shape(s)
    shape["backbone_options"] |= {"prompt_layers": s.depth, "prompt_tokens": s.prompts}
    method = JHMFR(**shape, sample_rate=rate).to(device)
    spec = method.head
    assert spec is not None
    options = {**spec.options, "sparse_update": rate < 1, "fused_step": rate == 1}
    head = MarginHead(
        spec.margin, s.embedding, s.classes, group="alone", sample_rate=rate, precision="bf16", device=device, **options
    )
    head.build_optimizer("adamw", 1e-4, weight_decay=0.05)
    optimizer, (x, flags, labels) = our_optimizer(method, "backbone"), data(s, device)
    rows = torch.arange(s.batch, device=device)
    batch = Batch({"image": x, "flag": flags.bool(), "label": labels}, {}, "rgb", rows, rows)
    context = our_context(method, s, device)

    def step() -> Any:
        with autocast(device):
            update = next(method.training_step(batch, context))
        assert update.embeddings is not None and update.labels is not None
        loss = head(update.embeddings.float(), update.labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(method.backbone.parameters(), 1.0)
        optimizer.step()
        head.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def our_mae(s: Sizes, device: str) -> Step:
    """JHMFRPretrain."""
    from facex_jhmfr import JHMFRPretrain

    from facex.methods import Batch

    decoder = {"decoder_dim": s.decoder_dim, "decoder_depth": s.decoder_depth, "decoder_heads": s.decoder_heads}
    method = JHMFRPretrain(**our_shape(s), **decoder).to(device)
    optimizer, (x, _, _) = our_optimizer(method, "mae"), data(s, device)
    rows = torch.arange(s.batch, device=device)
    batch, context = Batch({"image": x}, {}, "rgb", rows, rows), our_context(method, s, device)

    def step() -> Any:
        with autocast(device):
            loss = next(method.training_step(batch, context)).losses["mse"]
        loss.backward()
        nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def make(case: str, who: str, s: Sizes, device: str) -> Step:
    """A step of one implementation."""
    if case == MAE:
        return our_mae(s, device) if who == "facex" else plain_mae(s, device)
    if who == "facex":
        return our_tuning(s, device, 1.0 if case == FINE else 0.1)
    return plain_tuning(s, device)


def peak_bytes(device: str) -> int:
    """The peak so far: of the allocator on CUDA, of the process otherwise."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worker(case: str, who: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one implementation in this process."""
    torch.manual_seed(0)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    make(case, who, TINY, options.device)()  # libraries and threads wake up
    sizes, before, seconds = SCALES[options.scale], peak_bytes(options.device), []
    step = make(case, who, sizes, options.device)
    step()  # moments are made
    for _ in range(options.repeats):
        start = clock()
        step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    mb = max(0.0, (peak_bytes(options.device) - before) / 2**20)
    return {"images": sizes.batch / max(min(seconds), 1e-9), "mb": mb}


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
    """Speed and memory of ours beside the plain one's."""
    s = SCALES[options.scale]
    device = options.device if options.device == "cpu" else torch.cuda.get_device_name()
    classes = "" if case == MAE else f" C={s.classes}"
    name, peer = f"{case} B={s.batch}{classes} dim={s.dim} depth={s.depth} bf16", measure(case, "plain", options)
    mine = measure(case, "facex", options)
    if mine is None:
        sys.exit(f"{name}: facex itself ran out of memory")
    label = source() + ("" if case == MAE else ", full-matrix ArcFace") + (" (out of memory)" if peer is None else "")
    speed, memory = (None, None) if peer is None else (peer["images"], peer["mb"])
    per = "images/s" if options.clock == "wall" else "images/cpu_second"
    return [
        row(name, device, per, mine["images"], speed, label, more_is_better=True),
        row(name, device, "peak_memory_mb", mine["mb"], memory, label),
    ]


def main() -> None:
    """Parse the command line, measure, print."""
    run_cases(__doc__, CASES, SCALES, worker, compare)


if __name__ == "__main__":
    main()
