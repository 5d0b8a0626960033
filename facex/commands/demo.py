"""`facex demo`: render faces, train a method's demo recipe with the real launcher, verify it, write the report."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from jsonargparse import ArgumentParser

from facex.errors import ConfigError, TrainingError
from facex.files import write_text

DATA = Path("runs/demo-data")


def main(argv: list[str]) -> int:
    """Run the demo; every finished part is reused by a second run."""
    parser = ArgumentParser(prog="facex demo", description=__doc__)
    parser.add_argument("--method", default="magface", help="a folder of configs/ with a demo.yaml")
    parser.add_argument("--output", default=None, help="run folder (default: runs/demo, or runs/demo-METHOD)")
    parser.add_argument("--identities", type=int, default=400, help="rendered identities to train on")
    parser.add_argument("--images", type=int, default=20, help="images of each identity")
    options = parser.parse_args(argv)
    config = Path("configs") / options.method / "demo.yaml"
    if not config.is_file():
        known = sorted(p.parent.name for p in Path("configs").glob("*/demo.yaml"))
        raise ConfigError(f"{config} does not exist; methods with a demo: {', '.join(known) or 'none here'}")
    name = "demo" if options.method == "magface" else f"demo-{options.method}"
    output = Path(options.output or Path("runs") / name)
    start = time.perf_counter()
    _step(
        "rendered faces",
        ["synth", str(DATA), "--identities", options.identities, "--images-per-identity", options.images],
    )
    _train(config, output)
    _step(
        "verification on identities never seen in training",
        ["eval", "--checkpoint", output, "--bin", DATA / "val.bin", "--baselines", "--report", output / "report"],
    )
    shutil.copyfile(output / "report" / "results.json", output / "results.json")
    print(f"\nReport: {output / 'report' / 'index.html'}   results: {output / 'results.json'}")
    print(f"Whole demo: {time.perf_counter() - start:.0f} s")
    return 0


def _train(config: Path, output: Path) -> None:
    """Train, or say that a finished run of the same recipe is there."""
    stamp = output / ".finished"
    digest = hashlib.sha256(config.read_bytes() + (DATA / "facex.json").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        print(f"\n== training: {output} is finished already (remove it to train again)", flush=True)
        return
    shutil.rmtree(output, ignore_errors=True)
    gpus = _gpu_count()
    launcher = [str(Path(sys.executable).parent / "deepspeed")]
    environment = dict(os.environ)
    if gpus:
        launcher += ["--num_gpus", str(gpus)]
    else:
        launcher += ["--num_accelerators", "2"]
        environment.setdefault("DS_ACCELERATOR", "cpu")
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    arguments = ["--module", "facex", "train", "--config", str(config), "--trainer.output", str(output)]
    _run("training", [*launcher, *arguments], environment)
    write_text(stamp, digest)


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _step(title: str, arguments: list[object]) -> None:
    _run(title, [sys.executable, "-m", "facex", *map(str, arguments)], dict(os.environ))


def _run(title: str, command: list[str], environment: dict[str, str]) -> None:
    shown = " ".join(
        ["facex", *command[3:]] if command[1:3] == ["-m", "facex"] else [Path(command[0]).name, *command[1:]]
    )
    print(f"\n== {title}\n$ {shown}", flush=True)
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise TrainingError(f"'{shown}' ended with exit code {code}; its messages are above")
