"""`facex plan`: what a training run takes of each device, before anything is started.

Memory is what is held at the worst moment (the end of the forward pass or the head's backward pass), operations and bytes
are those that the method cannot avoid, and the time is the roofline's: each part takes the longer of its operations at the
matrix unit's rate and its bytes at the memory's. Real runs are slower; no part of a plan is measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from facex.errors import ConfigError
from facex.train.plan_devices import Device

if TYPE_CHECKING:
    from facex.train.plan_network import NetworkCost

OPERAND = {"fp32": 4, "bf16": 2, "fp16": 2}
MOST_GPUS = 4096
USABLE = 0.95  # of the memory; the rest is lost between the blocks of an allocator
Measure = Callable[[bool], "NetworkCost"]


@dataclass(frozen=True)
class Job:
    """A run: names as in the configuration of `facex train`."""

    classes: int
    dim: int
    batch: int  # global
    gpus: int = 1
    accumulation: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    head_precision: Literal["fp32", "bf16"] = "fp32"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    zero: int = 0
    sample_rate: float = 1.0
    fused_step: bool = False
    momentum_dtype: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("classes", "dim", "batch", "gpus", "accumulation"):
            if getattr(self, name) < 1:
                raise ConfigError(f"plan: {name} is {getattr(self, name)}; it must be at least 1")
        if self.batch % (self.gpus * self.accumulation):
            raise ConfigError(
                f"plan: batch {self.batch} is no multiple of {self.gpus} GPUs x accumulation {self.accumulation}"
            )
        if not 0 < self.sample_rate <= 1:
            raise ConfigError(f"plan: sample_rate is {self.sample_rate}; it must be above 0 and at most 1")
        if self.zero not in (0, 1, 2, 3):
            raise ConfigError(f"plan: zero is {self.zero}; it must be 0, 1, 2 or 3")
        if self.fused_step and (self.accumulation > 1 or self.precision == "fp16" or self.sample_rate < 1):
            raise ConfigError("plan: fused_step goes with one micro-batch a step, all classes, and not with fp16")

    @property
    def rows(self) -> int:
        """Rows of a micro-batch over all GPUs: what a shard of the head sees."""
        return self.batch // self.accumulation

    @property
    def images(self) -> int:
        """Images of a micro-batch on one GPU."""
        return self.rows // self.gpus

    @property
    def shard(self) -> int:
        """Classes of the largest shard."""
        return math.ceil(self.classes / self.gpus)


@dataclass(frozen=True)
class Part:
    """Work of one optimizer step on one GPU."""

    name: str
    flops: float
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Bytes of one GPU by what holds them, work by part, bytes that one GPU receives by collective, all of one step."""

    memory: dict[str, int]
    work: list[Part]
    collectives: dict[str, int]
    network_seconds: float
    capacity: float
    advice: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Bytes of one GPU."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether they fit, with a little room."""
        return self.total <= USABLE * self.capacity

    @property
    def seconds(self) -> float:
        """The roofline's time of a step, nothing overlapped."""
        return sum(part.seconds for part in self.work) + self.network_seconds


def estimate(job: Job, measure: Measure, device: Device) -> Estimate:
    """The plan of a run, with what would help where it does not fit. `measure`: the backbone's cost in the job's precision,
    without activation checkpointing or with it."""
    plain = _estimate(job, measure, device)
    return plain if plain.fits else dataclasses.replace(plain, advice=_advice(job, measure, device))


def _estimate(job: Job, measure: Measure, device: Device) -> Estimate:
    network = measure(job.activation_checkpointing)
    collectives = _collectives(job, network)
    return Estimate(
        memory=head_memory(job, device) | network_memory(job, network) | {"driver and libraries": int(device.reserved)},
        work=[*head_work(job, device), network_work(job, network, device)],
        collectives=collectives,
        network_seconds=sum(collectives.values()) / device.link,
        capacity=device.memory,
    )


def _moment_bytes(job: Job) -> int:
    """Bytes of the moments of one number of a class centre."""
    return (2 if job.momentum_dtype == "bf16" else 4) + (4 if job.optimizer == "adamw" else 0)


def head_memory(job: Job, device: Device) -> dict[str, int]:
    """Bytes of one shard of the head. Sampled classes keep their rows' gradients alone."""
    numbers, sampled = job.shard * job.dim, job.sample_rate < 1
    taking_part = math.ceil(job.shard * job.sample_rate)
    gradient = 0 if job.fused_step else 4 * job.dim * taking_part
    operand = OPERAND[job.head_precision]
    fitting = device.tile_bytes // (4 * job.rows) // 256 * 256
    chunk = min(taking_part, max(device.least_chunk, min(device.most_chunk, fitting)))
    tile = chunk * (job.rows * (4 + operand) + job.dim * (4 + operand))
    rows = job.rows * job.dim * (operand + 3 * 4)  # x gathered and as an operand, dx and a chunk's part of it
    return {
        "head: class centres": 4 * numbers,
        "head: moments": _moment_bytes(job) * numbers,
        "head: gradient": gradient + (12 * job.shard if sampled else 0),
        "head: chunk and gathered rows": tile + rows,
    }


def network_memory(job: Job, network: NetworkCost) -> dict[str, int]:
    """Bytes of the backbone on one GPU; ZeRO 1 shards moments (and adds the shard's copy of the weights), 2 gradients, 3
    weights."""
    size, share = 4 * network.parameters, job.gpus if job.zero else 1
    moments = (2 if job.optimizer == "adamw" else 1) * size // share
    activations = job.images * (network.activation_bytes + network.largest_bytes) + network.fixed_bytes
    return {
        "backbone: weights": size // (job.gpus if job.zero == 3 else 1) + (size // share if job.zero else 0),
        "backbone: moments": moments,
        "backbone: gradient": size // (job.gpus if job.zero >= 2 else 1),
        "backbone: activations": activations,
        "images": job.images * network.image_numbers * (1 + 4),
    }


def head_work(job: Job, device: Device) -> list[Part]:
    """Forward and backward with recomputation: four products of 2 B C D operations; weights are read twice, the gradient is
    written once. The optimizer reads and writes weights and moments, and reads the gradient."""
    numbers, micro_steps = job.shard * job.dim, job.accumulation
    taking_part = numbers * job.sample_rate
    flops = 8.0 * job.rows * taking_part * micro_steps
    moments = 2.0 * _moment_bytes(job) * numbers
    passes = 2 * 4.0 * taking_part * micro_steps
    if job.fused_step:
        moved = passes + 4.0 * numbers + moments
        return [_part("head: forward, backward, step", flops, moved, device, job.head_precision)]
    passes += 4.0 * taking_part * (2 * micro_steps - 1)  # a window adds to what is there
    step = 4.0 * taking_part + 8.0 * numbers + moments
    return [
        _part("head: forward, backward", flops, passes, device, job.head_precision),
        _part("head: optimizer", 0.0, step, device, job.head_precision),
    ]


def network_work(job: Job, network: NetworkCost, device: Device) -> Part:
    """Forward, and twice as much backward; activations are written, read again, and their gradients written and read."""
    images = job.images * job.accumulation
    flops = (4.0 if job.activation_checkpointing else 3.0) * images * network.forward_flops
    step = (5 + (4 if job.optimizer == "adamw" else 2)) * 4.0 * network.parameters
    moved = 4.0 * images * network.activation_bytes + step
    return _part("backbone: forward, backward, step", flops, moved, device, job.precision)


def _part(name: str, flops: float, moved: float, device: Device, precision: str) -> Part:
    return Part(name, flops, moved, max(flops / device.rate(precision), moved / device.bandwidth))


def _collectives(job: Job, network: NetworkCost) -> dict[str, int]:
    """Bytes that one GPU receives in a step (a ring's volume)."""
    if job.gpus == 1:
        return {}
    others = (job.gpus - 1) / job.gpus
    rows = 4 * job.rows * job.dim * job.accumulation
    numbers = 4 * job.rows * job.accumulation
    return {
        "gather embeddings": int(others * rows),
        "scatter their gradients": int(others * rows),
        "targets, logsumexp, labels": int((2 * others + (job.gpus - 1) + 4 * others) * numbers),
        "backbone gradients": int(2 * others * 4 * network.parameters),
    }


def _advice(job: Job, measure: Measure, device: Device) -> list[str]:
    """What makes the run fit: each line together with those before it, cheapest first; then more GPUs."""
    exact = job.accumulation == 1 and job.precision != "fp16" and job.sample_rate == 1
    steps: list[tuple[str, dict[str, Any], bool]] = [
        ("head.fused_step true", {"fused_step": True}, exact),
        ("head.momentum_dtype bf16", {"momentum_dtype": "bf16"}, True),
        ("trainer.activation_checkpointing true", {"activation_checkpointing": True}, True),
        ("trainer.zero 1", {"zero": 1}, job.gpus > 1 and job.zero == 0),
        (
            "head.sample_rate 0.1 (Partial FC; not exact)",
            {"sample_rate": 0.1, "fused_step": False},
            job.sample_rate == 1,
        ),
    ]
    advice: list[str] = []
    tried = job
    for name, change, possible in steps:
        changed = dataclasses.replace(tried, **change)
        if not possible or changed == tried:
            continue
        tried = changed
        found = _estimate(tried, measure, device)
        advice.append(f"{'and ' if advice else ''}{name}: {found.total / 1e9:.1f} GB{', fits' if found.fits else ''}")
        if found.fits:
            break
    more = job.gpus
    while more < MOST_GPUS and job.batch % (2 * more * job.accumulation) == 0:
        more *= 2
        if _estimate(dataclasses.replace(job, gpus=more), measure, device).fits:
            return [*advice, f"or as it is on {more} GPUs"]
    return advice
