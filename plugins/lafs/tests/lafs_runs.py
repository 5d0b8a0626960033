"""Runs `facex train` on noise in the shape of faces, in one process or in two ranks, and reads what it wrote.

[deepspeed ... ] lafs_runs.py RUNS.json       a list of {"argv": [...], "stops": [...], "output": folder}
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

TINY = {"dim": 16, "depth": 1, "heads": 1, "head_dim": 8, "mlp_dim": 16, "num_patches": 16, "patch_size": 8}
QUIET = {"dropout": 0.0, "emb_dropout": 0.0, "drop_path": 0.0}
PICTURES = 32


def make_faces(root: Path, people: int = 6, pictures: int = 4) -> Path:
    """A folder for each person: a pattern, and noise on it."""
    rng = np.random.default_rng(0)
    for person in range(people):
        (root / f"p{person}").mkdir(parents=True)
        pattern = cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), (PICTURES, PICTURES)).astype(int)
        for i in range(pictures):
            picture = np.clip(pattern + rng.integers(-30, 30, pattern.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / f"p{person}" / f"{i}.png"), picture)
    return root


def options(**values: Any) -> list[str]:
    """`--key value` pairs; a dot stands for a double underscore."""
    words = []
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words += [f"--{key.replace('__', '.')}", text]
    return words


def common(faces: Path, output: Path, **more: Any) -> list[str]:
    """The options that every run here has."""
    settings = {
        "method__input__height": PICTURES,
        "method__input__width": PICTURES,
        "data__path": str(faces),
        "data__transforms": "[]",
        "trainer__output": str(output),
        "trainer__global_batch": 8,
        "trainer__micro_batch": 4,
        "trainer__precision": "fp32",
        "trainer__log_every": 1,
        "trainer__keep_last": 0,
        "optimizer__name": "adamw",
        "optimizer__lr": 2e-3,
        "logging__tensorboard": False,
    }
    return options(**{**settings, **more})


def train_here(argv: list[str], stops: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Train in this process, stopping and going on as `stops` says; the lines of metrics.jsonl."""
    from facex.train.parsing import parse
    from facex.train.trainer import train

    for stop in (*stops, None):
        extra = options(trainer__resume="auto", **({} if stop is None else {"trainer__max_steps": stop}))
        parsed = parse([*argv, *extra])
        train(parsed.config, parsed.resolved)
    return metrics(Path(argv[argv.index("--trainer.output") + 1]))


def metrics(output: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, without what a clock measured."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in m.items() if k != "images_per_second" and not k.startswith("share/")} for m in lines]


def train_on_two_ranks(runs: list[list[str]], folder: Path) -> list[list[dict[str, Any]]]:
    """The same runs, one after the other, in one job of two ranks under the deepspeed launcher."""
    from tests.ports import free_port, job_environment

    listing = folder / "runs.json"
    listing.write_text(json.dumps(runs))
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    done = subprocess.run(
        [launcher, "--num_accelerators", "2", "--master_port", str(free_port()), __file__, str(listing)],
        env=job_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [metrics(Path(argv[argv.index("--trainer.output") + 1])) for argv in runs]


if __name__ == "__main__":
    from facex.train import launch

    for run in json.loads(Path(sys.argv[-1]).read_text()):
        train_here(run)
    launch.stop()
