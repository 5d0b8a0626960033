"""MagFace in fp16: 500 steps without a NaN, and how fast they are beside the same steps in fp32.

The network runs under fp16 autocast with the trainer's loss scale, the head in fp32, as `trainer.precision: fp16` does;
the pictures are a pattern a class under noise. A step whose gradients overflow is dropped and lowers the scale; a loss or
a weight that is not finite ends the benchmark with an error. Without a GPU a small network takes 20 steps.

    python benchmarks/magface_fp16.py --json
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch
from _rows import parser, row, show

LR = 0.05


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    steps: int
    batch: int
    classes: int
    side: int
    width: float


@dataclass
class Outcome:
    """What a run did; `finite` counts the steps up to the first loss or weight that is not finite."""

    finite: int
    dropped: int
    images_per_second: float


def train(precision: str, size: Size, device: torch.device) -> Outcome:
    """Train iresnet18 under MagFace for `size.steps` steps."""
    from facex.heads import MagFace, MarginHead
    from facex.models import create_backbone
    from facex.train.precision import GradientUnscaler, LossScale, autocast_forward

    torch.manual_seed(0)
    network = create_backbone("iresnet18", input_size=size.side, width=size.width).to(device).train()
    if precision == "fp16":
        autocast_forward(network, "fp16", device.type)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, LR, momentum=0.9, weight_decay=5e-4)
    head = MarginHead(MagFace(), 512, size.classes, group="alone", init="unit", device=device)
    head.build_optimizer("sgd", lr=LR)
    scale = LossScale(precision, initial=2.0**16, growth_interval=100, minimum=1.0)
    unscaler = GradientUnscaler(parameters, scale, device)
    patterns = torch.randn(size.classes, 3, 7, 7, device=device)
    finite, dropped, seconds = torch.zeros((), dtype=torch.int64, device=device), 0, 0.0
    for step in range(size.steps):
        if step == size.steps // 10:  # what comes before wakes up libraries
            seconds = -_now(device)
        labels = torch.randint(size.classes, (size.batch,), device=device)
        images = torch.nn.functional.interpolate(patterns[labels], size=size.side) * 0.5
        loss = head(network(images + 0.3 * torch.randn_like(images)), labels).loss
        unscaler.note(loss)
        (loss * scale.value).backward()
        if bool(unscaler.found) or not bool(head.grads_finite()):
            head.skip()
            scale.overflowed()
            dropped += 1
        else:
            optimizer.step()
            head.step(LR, loss_scale=scale.value)
            scale.applied()
        optimizer.zero_grad()
        unscaler.clear()
        scale.settle()
        good = loss.isfinite() & torch.stack([p.detach().isfinite().all() for p in (*parameters, head.weight)]).all()
        finite += good & (finite == step)
    seconds += _now(device)
    timed = size.steps - size.steps // 10
    return Outcome(int(finite), dropped, timed * size.batch / seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Parse the command line, train in fp16 and fp32, print."""
    options = parser(__doc__)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options.add_argument("--steps", type=int, help="500 on a GPU, 20 without one")
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    size = Size(arguments.steps or 500, 128, 10_000, 112, 1.0)
    if device.type == "cpu":
        size = Size(arguments.steps or 20, 8, 100, 32, 0.25)
    half, full = train("fp16", size, device), train("fp32", size, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    case = f"MagFace fp16, iresnet18 x{size.width:g} at {size.side} px, B={size.batch}, C={size.classes}"
    values = {
        "finite_steps": (half.finite, size.steps, "steps taken"),
        "applied_steps": (size.steps - half.dropped, size.steps - full.dropped, "fp32"),
        "images_per_second": (half.images_per_second, full.images_per_second, "fp32"),
    }
    show([row(case, name, metric, *found, more_is_better=True) for metric, found in values.items()], arguments.json)
    if half.finite < size.steps:
        sys.exit(f"step {half.finite} of {size.steps}: a loss or a weight is not finite")


if __name__ == "__main__":
    main()
