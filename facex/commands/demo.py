"""`facex demo`: render faces, train a method's demo recipes with the real launcher, evaluate them, write the report.

configs/METHOD/demo.yaml alone is trained and verified. A method with several stages or arms has configs/METHOD/demo.plan.yaml
beside it (see `read_plan`).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from facex.errors import ConfigError, TrainingError
from facex.files import write_text

DATA = Path("runs/demo-data")


@dataclass(frozen=True)
class Stage:
    """One part of a demo: a training (`train`, a recipe; into `folder`), or a command of facex (`run`)."""

    title: str
    train: Path | None = None
    folder: str = "."
    options: str = ""
    run: str = ""


@dataclass(frozen=True)
class Plan:
    """The stages in order, and the report's folder (its results.json is copied to the demo's)."""

    stages: list[Stage] = field(default_factory=list)
    report: str = "report"


def build_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(prog="facex demo", description=__doc__)
    parser.add_argument("--method", default="magface", help="a folder of configs/ with a demo.yaml or a demo.plan.yaml")
    parser.add_argument("--output", default=None, help="run folder (default: runs/demo, or runs/demo-METHOD)")
    parser.add_argument("--identities", type=int, default=400, help="rendered identities to train on")
    parser.add_argument("--images", type=int, default=20, help="images of each identity")
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="of every training (default: its recipe's); give it an --output of its own",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the demo; every finished part is reused by a second run."""
    options = build_parser().parse_args(argv)
    plan = find_plan(Path("configs") / options.method)
    name = "demo" if options.method == "magface" else f"demo-{options.method}"
    output = Path(options.output or Path("runs") / name)
    start = time.perf_counter()
    _step(
        "rendered faces",
        ["synth", str(DATA), "--identities", options.identities, "--images-per-identity", options.images],
    )
    digests: dict[str, str] = {}
    for stage in plan.stages:
        if stage.train is not None:
            digests[stage.folder] = _train(stage, output, digests, options.seed)
        else:
            _step(stage.title, shlex.split(_fill(stage.run, output)))
    report = output / plan.report
    write_text(output / "results.json", (report / "results.json").read_text(encoding="utf-8"))
    print(f"\nReport: {report / 'index.html'}   results: {output / 'results.json'}")
    print(f"Whole demo: {time.perf_counter() - start:.0f} s")
    return 0


def find_plan(folder: Path) -> Plan:
    """The plan of a method's recipe folder, or the one of its demo.yaml alone; ConfigError where there is neither."""
    plan, recipe = folder / "demo.plan.yaml", folder / "demo.yaml"
    if plan.is_file():
        return read_plan(plan)
    if recipe.is_file():
        verify = "eval --checkpoint $output --bin $data/val.bin --baselines --report $output/report"
        return Plan([Stage("training", recipe), Stage("verification on identities never seen in training", run=verify)])
    known = sorted({p.parent.name for p in folder.parent.glob("*/demo*.yaml")})
    raise ConfigError(f"{recipe} does not exist; methods with a demo: {', '.join(known) or 'none here'}")


def read_plan(path: Path) -> Plan:
    """A plan from YAML: `report`, the folder of the report below the demo's output, and `stages`, a list of

    - title, train (a recipe beside the plan), folder (of the run, below the output), options (more of `facex train`)
    - title, run (a command line of facex)

    In `options` and `run`, $output stands for the demo's folder and $data for that of the rendered faces. A training is
    repeated when its recipe, its options or a training that its options name have changed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a plan that can be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("stages"), list) or not content["stages"]:
        raise ConfigError(f"{path}: a plan needs `stages`, a list")
    if unknown := sorted(set(content) - {"stages", "report"}):
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; a plan has stages and report")
    stages = [_stage(path, number, each) for number, each in enumerate(content["stages"], 1)]
    folders = [stage.folder for stage in stages if stage.train]
    if doubled := sorted({name for name in folders if folders.count(name) > 1}):
        raise ConfigError(f"{path}: two trainings write into the folder {doubled[0]!r}; give each its own")
    if len(folders) > 1 and "." in folders:
        raise ConfigError(f"{path}: of several trainings each needs a `folder` of its own")
    return Plan(stages, str(content.get("report", "report")))


def _stage(path: Path, number: int, content: Any) -> Stage:
    where = f"{path}: stage {number}"
    if not isinstance(content, dict) or ("train" in content) == ("run" in content):
        raise ConfigError(f"{where} needs either `train` (a recipe) or `run` (a command of facex)")
    allowed = {"title", "train", "folder", "options"} if "train" in content else {"title", "run"}
    if unknown := sorted(set(content) - allowed):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(allowed))}")
    texts = {key: str(value) for key, value in content.items()}
    for key in ("options", "run"):
        try:
            Template(texts.get(key, "")).substitute(output="", data="")
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{where}: {key} may name $output and $data alone ({error})") from error
    title = texts.pop("title", texts.get("train", "") or texts.get("run", ""))
    recipe = path.parent / texts.pop("train") if "train" in texts else None
    if recipe is not None and not recipe.is_file():
        raise ConfigError(f"{where}: {recipe} does not exist")
    return Stage(title, recipe, **texts)


def _fill(text: str, output: Path) -> str:
    return Template(text).substitute(output=output, data=DATA)


def _train(stage: Stage, output: Path, digests: dict[str, str], seed: int | None) -> str:
    """Train, or say that a finished run of the same recipe is there; the digest of all that it depends on."""
    assert stage.train is not None
    folder, options = output / stage.folder, _fill(stage.options, output)
    if seed is not None:
        options = f"{options} --trainer.seed {seed}"
    earlier = "".join(digest for name, digest in digests.items() if str(output / name) in options)
    parts = (stage.train.read_bytes(), (DATA / "facex.json").read_bytes(), options.encode(), earlier.encode())
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    stamp = folder / ".finished"
    if stamp.is_file() and stamp.read_text() == digest:
        print(f"\n== {stage.title}: {folder} is finished already (remove it to train again)", flush=True)
        return digest
    shutil.rmtree(folder, ignore_errors=True)
    launcher, environment = _launcher()
    arguments = ["--module", "facex", "train", "--config", str(stage.train), "--trainer.output", str(folder)]
    _run(stage.title, [*launcher, *arguments, *shlex.split(options)], environment)
    write_text(stamp, digest)
    return digest


def _launcher() -> tuple[list[str], dict[str, str]]:
    """The start of a command line for every GPU, or else two CPU processes, and its environment."""
    gpus = _gpu_count()
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--master_port", str(_free_port())]
    environment = dict(os.environ)
    if gpus:
        return [*launcher, "--num_gpus", str(gpus)], environment
    environment.setdefault("DS_ACCELERATOR", "cpu")
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    return [*launcher, "--num_accelerators", "2"], environment


def _free_port() -> int:
    """A port for the ranks to meet at: the launcher's own default is taken where another job runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _step(title: str, arguments: list[object] | list[str]) -> None:
    _run(title, [sys.executable, "-m", "facex", *map(str, arguments)], dict(os.environ))


def _run(title: str, command: list[str], environment: dict[str, str]) -> None:
    shown = " ".join(
        ["facex", *command[3:]] if command[1:3] == ["-m", "facex"] else [Path(command[0]).name, *command[1:]]
    )
    print(f"\n== {title}\n$ {shown}", flush=True)
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise TrainingError(f"'{shown}' ended with exit code {code}; its messages are above")
