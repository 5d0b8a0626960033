"""Every way to start a run, and what happens when a rank dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from tests.eval.tiny import make_bin, make_run
from tests.ports import free_port, job_environment

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = str(Path(sys.executable).with_name("deepspeed"))


def start(command: list[str], **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=ROOT, env=job_environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], timeout: float = 240) -> str:
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
    return output


def scenarios(folder: Path, **more: Any) -> Path:
    path = folder / "scenarios.json"
    trainer = {"micro_batch": 8, "steps": 6}
    path.write_text(json.dumps([{"name": "run", "method": "TinyRecogniser", "config": {"trainer": trainer}, **more}]))
    return path


def losses(folder: Path) -> list[float]:
    return [m["backbone/loss"] for m in json.loads((folder / "run.json").read_text())["metrics"]]


def test_two_launchers_of_one_process_each_are_one_job(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    listing, port = scenarios(tmp_path), str(free_port())
    words = ["--hostfile", str(hosts), "--no_ssh", "--master_addr", "127.0.0.1", "--master_port", port]
    job = ["--module", "tests.train.worker", str(listing), str(tmp_path)]
    both = [start([LAUNCHER, *words, "--node_rank", str(rank), *job]) for rank in (0, 1)]
    outputs = [finish(process) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    alone = tmp_path / "alone"
    alone.mkdir()
    single = start([sys.executable, "-m", "tests.train.worker", str(listing), str(alone)])
    output = finish(single)
    assert single.returncode == 0, output[-3000:]
    assert "x 2 ranks" in outputs[0]
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-4)


def test_a_killed_rank_ends_the_others_with_a_message(tmp_path: Path) -> None:
    listing, port = (
        scenarios(tmp_path, args={"slow": 0.2}, config={"trainer": {"micro_batch": 8, "steps": 500}}),
        free_port(),
    )
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.train.worker", str(listing), str(tmp_path)]
    ranks = [start(command, RANK=str(r), LOCAL_RANK=str(r), **shared) for r in (0, 1)]
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.2)
    ranks[1].send_signal(signal.SIGKILL)
    finish(ranks[1])
    output = finish(ranks[0], 120)
    report = tmp_path / "run.json"
    said = json.loads(report.read_text())["error"] if report.exists() else output
    assert "lost contact with another rank" in said, output[-3000:]
    assert "resume" in said


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RecordIO folder of coloured noise: 8 classes of 8 images."""
    from facex.data import write_face_set

    folder = tmp_path_factory.mktemp("faces")
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (8, 32, 32, 3))
    pictures = [
        np.clip(base[i // 8] + generator.integers(-30, 30, (32, 32, 3)), 0, 255).astype(np.uint8) for i in range(64)
    ]
    samples = [(cv2.imencode(".png", picture)[1].tobytes(), i // 8) for i, picture in enumerate(pictures)]
    write_face_set(folder, samples, 8, (32, 32))
    return folder


@pytest.fixture(scope="module")
def config(faces: Path) -> Path:
    options = {"backbone": "r18", "embedding_size": 16, "backbone_options": {"width": 0.125, "input_size": 32}}
    method = {"margin": {"class_path": "ArcFace"}, "input": {"height": 32, "width": 32}, **options}
    content = {
        "method": {"class_path": "Recogniser", "init_args": method},
        "data": {"path": str(faces)},
        "trainer": {"global_batch": 16, "steps": 4, "precision": "fp32", "log_every": 1},
        "optimizer": {"lr": 0.01},
    }
    path = faces / "train.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_command_trains_under_the_launcher_and_alone(config: Path, tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    words = ["train", "--config", str(config), "--trainer.micro_batch", "8"]
    block = tmp_path / "ds.json"
    block.write_text(json.dumps({"zero_optimization": {"stage": "auto", "reduce_bucket_size": 1000000}}))
    more = ["--deepspeed", "--deepspeed_config", str(block), "--trainer.zero", "1", "--trainer.output", str(two)]
    launcher = [LAUNCHER, "--num_accelerators", "2", "--master_port", str(free_port()), "--module", "facex"]
    first = start([*launcher, *words, *more])
    output = finish(first)
    assert first.returncode == 0, output[-3000:]
    second = start([sys.executable, "-m", "facex", *words, "--trainer.output", str(one)])
    output = finish(second)
    assert second.returncode == 0, output[-3000:]
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    assert results[0]["losses"]["backbone/loss"] == pytest.approx(results[1]["losses"]["backbone/loss"], rel=1e-4)
    assert results[0]["finished"]
    assert results[0]["images_per_second"] > 0
    saved = yaml.safe_load((two / "config.yaml").read_text())
    assert saved["trainer"]["zero"] == 1
    assert saved["trainer"]["seed"] == 0
    assert saved["deepspeed"]["zero_optimization"]["reduce_bucket_size"] == 1000000
    _again_is_refused_and_the_checkpoint_loads(words, two)


def _again_is_refused_and_the_checkpoint_loads(words: list[str], folder: Path) -> None:
    from facex.train.load_run import load_run

    again = start([sys.executable, "-m", "facex", *words, "--trainer.output", str(folder)])
    output = finish(again)
    assert again.returncode == 2
    assert "already holds checkpoints" in output
    assert "Traceback" not in output
    run = load_run(folder)
    assert run.meta["num_classes"] == 8
    assert not run.method.training


def test_evaluation_is_shared_among_ranks_and_printed_once(tmp_path: Path) -> None:
    run, bins = make_run(tmp_path / "run"), make_bin(tmp_path / "a.bin")
    command = [sys.executable, "-m", "facex", "eval", "--checkpoint", str(run), "--bin", str(bins), "--json", "-"]
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=job_environment(RANK=str(rank), LOCAL_RANK=str(rank), **job),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    alone = subprocess.run(command, cwd=ROOT, env=job_environment(), capture_output=True, text=True, check=True)
    expected, shared = json.loads(alone.stdout)["a"], json.loads(printed[0][0])["a"]
    for key in ("accuracy", "auc"):
        assert shared[key] == pytest.approx(expected[key], abs=1e-6)
    assert printed[1][0] == ""
