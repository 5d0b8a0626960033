"""`facex plan`: memory, operations, bytes, collectives and the roofline's time of a training run, before it is started."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

from facex.train.plan_devices import DEVICES, Device

if TYPE_CHECKING:
    from facex.train.plan import Estimate, Job
    from facex.train.plan_network import NetworkCost


def main(argv: list[str]) -> int:
    """Print the plan; exit code 0 whether it fits or not."""
    options = _parser().parse_args(argv)
    from facex.models.registry import describe_backbone
    from facex.train.plan import Job, estimate
    from facex.train.plan_network import network_cost

    extra = {} if options.dim is None else {"embedding_size": options.dim}
    names = {field.name for field in dataclasses.fields(Job)} - {"dim"}
    dim = describe_backbone(options.backbone, **extra).embedding_size
    job = Job(dim=dim, **{name: value for name, value in vars(options).items() if name in names})

    @functools.cache
    def measure(checkpointing: bool) -> NetworkCost:
        return network_cost(options.backbone, job.precision, checkpointing, **extra)

    device = _device(options)
    plan = estimate(job, measure, device)
    facts = _facts(job, plan, device, measure(job.activation_checkpointing))
    print(json.dumps(facts, indent=2) if options.json else _table(facts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="facex plan", description=__doc__)
    whole = lambda text: int(float(text))  # noqa: E731  (29e6)
    parser.add_argument("--classes", type=whole, required=True, help="identities (29e6 is understood)")
    parser.add_argument("--batch", type=whole, required=True, help="samples of a step over all GPUs")
    parser.add_argument("--backbone", default="iresnet100", help="a name of `facex info --backbones`")
    parser.add_argument("--dim", type=int, help="embedding dimension; default: the backbone's")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step on one GPU")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--head-precision", default="fp32", choices=["fp32", "bf16"], help="head.precision")
    parser.add_argument("--optimizer", default="sgd", choices=["sgd", "adamw"])
    parser.add_argument("--zero", type=int, default=0, choices=[0, 1, 2, 3])
    parser.add_argument("--sample-rate", type=float, default=1.0, help="Partial FC")
    parser.add_argument(
        "--fused-step", action="store_true", help="head.fused_step: no gradient of the class centres is stored"
    )
    parser.add_argument("--momentum-dtype", default="fp32", choices=["fp32", "bf16"], help="head.momentum_dtype")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--device", default="h100", choices=sorted(DEVICES))
    rates = parser.add_argument_group("another device than the table's (the rest stays)")
    rates.add_argument("--memory-gb", type=float)
    rates.add_argument("--tflops", type=float, help="dense, of the backbone's and head's operands alike")
    rates.add_argument("--bandwidth-gb", type=float, help="memory, GB/s")
    rates.add_argument("--link-gb", type=float, help="one direction between devices, GB/s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _device(options: argparse.Namespace) -> Device:
    changes: dict[str, Any] = {}
    for option, unit, names in (
        ("memory_gb", 1e9, ("memory",)),
        ("tflops", 1e12, ("bf16", "fp32")),
        ("bandwidth_gb", 1e9, ("bandwidth",)),
        ("link_gb", 1e9, ("link",)),
    ):
        value = getattr(options, option)
        if value is not None:
            changes |= {name: value * unit for name in names} | {"name": "as given"}
    return dataclasses.replace(DEVICES[options.device], **changes)


def _facts(job: Job, plan: Estimate, device: Device, network: NetworkCost) -> dict[str, Any]:
    return {
        "job": dataclasses.asdict(job),
        "device": dataclasses.asdict(device),
        "backbone": dataclasses.asdict(network),
        "memory_bytes": plan.memory,
        "total_bytes": plan.total,
        "fits": plan.fits,
        "advice": plan.advice,
        "work": [dataclasses.asdict(part) for part in plan.work],
        "collective_bytes": plan.collectives,
        "collective_seconds": plan.network_seconds,
        "step_seconds": plan.seconds,
        "images_per_second": job.batch / plan.seconds,
    }


def _table(facts: dict[str, Any]) -> str:
    job, device = facts["job"], facts["device"]
    lines = [
        f"{job['classes']:,} classes x {job['dim']}, batch {job['batch']:,}, {facts['backbone']['name']}, "
        f"{job['gpus']} x {device['name']}",
        "",
        f"{'memory of one GPU':<34} {'GB':>9}",
        *(f"  {name:<32} {size / 1e9:>9.2f}" for name, size in facts["memory_bytes"].items()),
        f"  {'together':<32} {facts['total_bytes'] / 1e9:>9.2f} of {device['memory'] / 1e9:.0f}: "
        f"{'fits' if facts['fits'] else 'DOES NOT FIT'}",
        *(f"  -> {line}" for line in facts["advice"]),
        "",
        f"{'one step of one GPU':<34} {'Tflop':>9} {'GB moved':>9} {'ms':>9}",
    ]
    for part in facts["work"]:
        numbers = (part["flops"] / 1e12, part["bytes"] / 1e9, part["seconds"] * 1e3)
        lines.append(f"  {part['name']:<32} " + " ".join(f"{number:>9.2f}" for number in numbers))
    for name, size in facts["collective_bytes"].items():
        lines.append(f"  {name:<32} {'':>9} {size / 1e9:>9.3f} {size / device['link'] * 1e3:>9.2f}")
    lines.append(
        f"  {'at best':<32} {'':>9} {'':>9} {facts['step_seconds'] * 1e3:>9.2f}   "
        f"({facts['images_per_second']:,.0f} images/s)"
    )
    return "\n".join(lines)
