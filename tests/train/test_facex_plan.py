"""`facex plan`: memory against a measured run, arithmetic against hand counts, the command."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facex import cli
from facex.errors import ConfigError
from facex.models import registry
from facex.train.plan import Job, estimate
from facex.train.plan_devices import DEVICES, Device
from facex.train.plan_network import NetworkCost, network_cost

NETWORK = NetworkCost("net", 10**6, 64, 10**9, 10**6, 10**5, 0, 3 * 64 * 64)
SIMPLE = Device("simple", 10e9, 100e12, 10e12, 1e12, 100e9, reserved=0.0)


def plan(device: Device = SIMPLE, **options: Any) -> Any:
    job = Job(**{"classes": 1_000_000, "dim": 64, "batch": 128, **options})
    return estimate(job, lambda checkpointing: NETWORK, device)


def test_bytes_of_the_head() -> None:
    memory = plan().memory
    assert [memory[f"head: {part}"] for part in ("class centres", "moments", "gradient")] == [256_000_000] * 3
    fused = plan(fused_step=True, momentum_dtype="bf16", optimizer="adamw").memory
    assert fused["head: gradient"] == 0
    assert fused["head: moments"] == 6 * 64_000_000
    assert plan(gpus=4).memory["head: class centres"] == 64_000_000
    assert plan(sample_rate=0.1).memory["head: gradient"] == 4 * 64 * 100_000 + 12 * 1_000_000
    assert plan(gpus=3, batch=129).memory["head: class centres"] == 4 * 64 * 333_334


def test_bytes_of_the_backbone() -> None:
    two = plan(gpus=2, zero=2, optimizer="adamw").memory
    assert two["backbone: moments"] == 2 * 4 * 10**6 // 2
    assert two["backbone: gradient"] == 4 * 10**6 // 2
    assert two["backbone: weights"] == 4 * 10**6 * 3 // 2
    assert two["backbone: activations"] == 64 * 1_100_000
    assert plan(accumulation=2).memory["backbone: activations"] == 64 * 1_100_000


def test_work_and_roofline() -> None:
    passes, step, network = plan(head_precision="bf16").work
    assert passes.flops == 8 * 128 * 1e6 * 64
    assert passes.bytes == 3 * 256e6  # read twice, written once
    assert passes.seconds == pytest.approx(passes.bytes / 1e12)  # 0.66 ms of products under 0.77 ms of memory
    assert plan(head_precision="fp32").work[0].seconds == pytest.approx(passes.flops / 10e12)
    assert step.bytes == 5 * 256e6  # gradient; weights and momentum, both ways
    fused = plan(fused_step=True).work[0]
    assert fused.bytes == 5 * 256e6
    assert network.flops == 3 * 128 * 1e9
    assert plan(accumulation=4, activation_checkpointing=True).work[-1].flops == 4 * 128 * 1e9
    assert plan(accumulation=4).work[0].flops == passes.flops


def test_collectives() -> None:
    assert plan().collectives == {}
    four = plan(gpus=4)
    assert four.collectives["gather embeddings"] == 3 * 4 * 128 * 64 // 4
    assert four.collectives["backbone gradients"] == 2 * 3 * 4 * 10**6 // 4
    assert four.network_seconds == pytest.approx(sum(four.collectives.values()) / 100e9)


def test_advice_is_the_least_that_fits() -> None:
    tight = dataclasses.replace(SIMPLE, memory=0.75e9)
    refused = plan(tight)
    assert not refused.fits
    assert refused.advice[0].startswith("head.fused_step true")
    assert refused.advice[0].endswith("fits")
    assert refused.advice[1] == "or as it is on 2 GPUs"
    assert plan(tight, fused_step=True).fits
    tighter = plan(dataclasses.replace(SIMPLE, memory=0.6e9))
    assert tighter.advice[1].startswith("and head.momentum_dtype bf16")
    assert tighter.advice[1].endswith("fits")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 100, "gpus": 8}, "no multiple"),
        ({"sample_rate": 0.0}, "sample_rate"),
        ({"fused_step": True, "accumulation": 2}, "fused_step"),
        ({"classes": 0}, "classes is 0"),
        ({"zero": 4}, "zero is 4"),
    ],
)
def test_impossible_jobs(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(**options)


class Two(nn.Module):
    """A network whose saved tensors can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3 * 8 * 8, 50), nn.Linear(50, 7)
        self.input_size, self.embedding_size = (8, 8), 7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x.flatten(1)).relu())


def test_activations_are_what_autograd_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.backbone_names()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    registry.register_backbone("plan_two", "for a test")(Two)
    cost = network_cost("plan_two", "fp32")
    # the images, relu's result (kept by relu and by the second layer), the embedding
    assert cost.activation_bytes == 4 * (192 + 50 + 7)
    assert cost.parameters == 193 * 50 + 51 * 7
    low = network_cost("plan_two", "bf16")
    assert low.activation_bytes == 2 * (192 + 50 + 7)
    assert low.fixed_bytes == 2 * 50 * 7  # the second weight's cast (the first layer's input takes no gradient)


def test_checkpointing_keeps_less() -> None:
    whole, less = (network_cost("iresnet18", "bf16", checkpointing) for checkpointing in (False, True))
    assert less.activation_bytes < 0.5 * whole.activation_bytes


# Peak of two training steps over what the process had before the model was built.
SCRIPT = """
import json, resource, sys, threading, torch
from facex.heads import CosFace, MarginHead
from facex.models import create_backbone
precision, fused, classes, batch = sys.argv[1], sys.argv[2] == "fused", int(sys.argv[3]), int(sys.argv[4])
low = precision == "bf16"


def train(classes, batch):
    network = create_backbone("resface_s").train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    options = {"fused_step": fused, "precision": precision}
    head = MarginHead(CosFace(), network.embedding_size, classes, group="alone", **options)
    head.build_optimizer("sgd", momentum_dtype="bf16" if fused else "fp32")
    for _ in range(2):
        images = torch.randint(0, 256, (batch, 3, *network.input_size), dtype=torch.uint8)
        x = images.float().div_(127.5).sub_(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            x = network(x)
        head(x.float(), torch.arange(batch)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        head.step()


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()


train(500, 4)
before = peak = resident()
done = threading.Event()


def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, resident())


watcher = threading.Thread(target=watch)
watcher.start()
train(classes, batch)
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "window"), ("bf16", "fused")])
def test_memory_against_a_run(precision: str, kind: str) -> None:
    classes, batch, fused = 250_000, 64, kind == "fused"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # freed blocks go back at once: what is counted is what is needed
    command = [sys.executable, "-c", SCRIPT, precision, kind, str(classes), str(batch)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    job = Job(
        classes=classes,
        dim=128,
        batch=batch,
        precision=precision,  # type: ignore[arg-type]
        head_precision=precision,  # type: ignore[arg-type]
        fused_step=fused,
        momentum_dtype="bf16" if fused else "fp32",
    )
    planned = estimate(job, lambda checkpointing: network_cost("resface_s", precision, checkpointing), DEVICES["cpu"])
    print(planned.total, run.stdout)
    assert planned.total == pytest.approx(int(run.stdout), rel=0.1)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = "plan --classes 29e6 --batch 256 --backbone resface_s --dim 512 --device h200"
    assert cli.main([*words.split(), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["memory_bytes"]["head: class centres"] == 29_000_000 * 512 * 4
    assert not facts["fits"]
    assert cli.main([*words.split(), "--fused-step", "--memory-gb", "160", "--tflops", "500"]) == 0
    table = capsys.readouterr().out
    assert "of 160: fits" in table
    assert "as given" in table
    assert cli.main([*words.split(), "--gpus", "7"]) == 2
    assert "no multiple" in capsys.readouterr().err
