"""Training for real: one rank and two, stops and resumes, the guard against stagnation, a dry run.

One job of two ranks under the `deepspeed` launcher and one process without it train everything; the tests read what
they wrote.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facex.train.checkpoint_folder import open_checkpoint
from facex.train.parsing import parse
from facex.train.trainer import train
from tests.ports import free_port, job_environment

ROOT = Path(__file__).resolve().parents[3]
PEOPLE, PICTURES, SIZE = 12, 8, 32
SHAPE = "{embed_dim: 32, depth: 2, num_heads: 4, patch_size: 8%s}"
PROMPTED = ", prompt_layers: 2, prompt_tokens: 4, drop_path_rate: %g"


def argv(folder: Path, name: str, *more: str) -> list[str]:
    """What every run here shares."""
    words = ["--method.input.height", "32", "--method.input.width", "32", "--method.embedding_size", "16"]
    words += ["--trainer.output", str(folder / name), "--trainer.global_batch", "16", "--trainer.micro_batch", "8"]
    words += ["--trainer.steps", "12", "--trainer.precision", "fp32", "--trainer.log_every", "1"]
    words += ["--optimizer.name", "adamw", "--optimizer.lr", "0.002", "--optimizer.weight_decay", "0.05"]
    words += ["--schedule.kind", "cosine", "--schedule.warmup_steps", "3", "--schedule.warmup_inclusive", "true"]
    return [*words, "--logging.tensorboard", "false", "--trainer.clip.norm", "1", *more]


def tuning(folder: Path, name: str, margin: str, *more: str, drop: float = 0.0) -> list[str]:
    words = ["--method", "JHMFR", "--method.margin", margin, "--method.backbone_options", SHAPE % (PROMPTED % drop)]
    words += ["--method.layer_decay", "0.75", "--data.path", str(folder.parent / "faces")]
    words += ["--data.dataset", "MaskedCopies", "--data.dataset_options", "{masked_faces: 0.5}"]
    return [*words, *argv(folder, name, *more)]


def pretraining(folder: Path, name: str, *more: str) -> list[str]:
    words = ["--method", "JHMFRPretrain", "--method.backbone_options", SHAPE % ""]
    words += ["--method.decoder_dim", "16", "--method.decoder_depth", "1", "--method.decoder_heads", "2"]
    return [*words, "--data.path", str(folder.parent / "faces" / "imgs"), *argv(folder, name, *more)]


WHOLE = ("--method.sample_rate", "1")


def run(name: str, words: list[str], *stops: int) -> dict[str, Any]:
    return {"name": name, "argv": words, "stops": list(stops)}


def shared(folder: Path) -> list[dict[str, Any]]:
    return [
        run("arcface", tuning(folder, "arcface", "arcface", *WHOLE)),
        run("droppath", tuning(folder, "droppath", "magface", *WHOLE, drop=0.4)),
        run("mae", pretraining(folder, "mae")),
    ]


def alone(folder: Path) -> list[dict[str, Any]]:
    sampled = ("--method.sample_rate", "0.5", "--method.bias_correction", "first")
    watched = ("--trainer.steps", "60", "--schedule.warmup_steps", "60", "--trainer.clip.norm", "0")
    watched = (*WHOLE, *watched, "--trainer.stagnation", "{window: 4, spike: 1.5, patience: 3}")
    another = ("--trainer.output", str(folder / "mae"))
    return [
        run("long", tuning(folder, "long", "curricularface", *sampled, drop=0.4)),
        run("long_stopped", tuning(folder, "long_stopped", "curricularface", *sampled, drop=0.4), 4, 7),
        run("mae_stopped", pretraining(folder, "mae_stopped"), 5),
        run("calm", tuning(folder, "calm", "arcface", *watched)),
        run("plateau", tuning(folder, "plateau", "arcface", *watched, "--optimizer.lr", "0.2")),
        run("other_kind", tuning(folder, "other_kind", "arcface", *WHOLE, *another)),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one rank in `one`, of two in `two`; faces of 12 people with masked copies (a bright lower half)."""
    root = tmp_path_factory.mktemp("jhmfr")
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        pattern = rng.integers(40, 200, (SIZE, SIZE, 3))
        for i in range(PICTURES):
            face = np.clip(pattern + rng.integers(-30, 30, pattern.shape), 0, 255).astype(np.uint8)
            masked = face.copy()
            masked[SIZE // 2 :] = 240
            for kind, picture in (("imgs", face), ("masked", masked)):
                path = root / "faces" / kind / f"p{person:02d}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    launch(root, "two", shared(root / "two"), [*launcher, "--master_port", str(free_port()), "--module"])
    launch(root, "one", [*shared(root / "one"), *alone(root / "one")], [sys.executable, "-m"])
    return root


def launch(root: Path, name: str, runs: list[dict[str, Any]], command: list[str]) -> None:
    listing = root / name / "runs.json"
    listing.parent.mkdir()
    listing.write_text(json.dumps(runs))
    words = [*command, "plugins.jhmfr.tests.worker_jhmfr", str(listing)]
    done = subprocess.run(
        words, cwd=ROOT, env=job_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def metrics(folder: Path) -> list[dict[str, float]]:
    error = folder.with_name(f"{folder.name}.error")
    assert not error.exists(), error.read_text()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path, network: str = "backbone") -> list[float]:
    return [m[f"{network}/loss"] for m in metrics(folder)]


@pytest.mark.parametrize(("name", "network"), [("arcface", "backbone"), ("droppath", "backbone"), ("mae", "mae")])
def test_two_ranks_give_the_losses_of_one_with_twice_the_accumulation(folder: Path, name: str, network: str) -> None:
    one, two = losses(folder / "one" / name, network), losses(folder / "two" / name, network)
    assert len(two) == 12 and len(set(two)) == 12
    assert two == pytest.approx(one, rel=1e-4)


def test_training_learns(folder: Path) -> None:
    assert losses(folder / "one" / "mae", "mae")[-1] < 0.9 * losses(folder / "one" / "mae", "mae")[0]
    assert (
        metrics(folder / "one" / "arcface")[-1]["head/cos_target"]
        > metrics(folder / "one" / "arcface")[0]["head/cos_target"]
    )


@pytest.mark.parametrize(
    ("whole", "stopped", "network"), [("long", "long_stopped", "backbone"), ("mae", "mae_stopped", "mae")]
)
def test_a_resume_is_exact(folder: Path, whole: str, stopped: str, network: str) -> None:
    assert losses(folder / "one" / stopped, network) == losses(folder / "one" / whole, network)
    first, second = (open_checkpoint(folder / "one" / name).method_state() for name in (whole, stopped))
    assert all(np.array_equal(first[name].numpy(), second[name].numpy()) for name in first)


def test_a_hundred_times_the_rate_is_stopped_with_step_loss_and_rate(folder: Path) -> None:
    assert len(losses(folder / "one" / "calm")) == 60
    text = (folder / "one" / "plateau.error").read_text()
    assert re.match(
        r"TrainingError: training has stagnated at step \d+: the mean loss [\d.]+ has stayed above 1.5 times the best "
        r"one \([\d.]+\) for 12 steps, at learning rate 0\.[01]\d+\. Lower the rate",
        text,
    ), text


def test_a_run_of_the_other_kind_is_refused_with_both_networks(folder: Path) -> None:
    text = (folder / "one" / "other_kind.error").read_text()
    assert "it has networks ['mae'], here there are ['backbone']" in text


def test_the_encoder_of_a_run_starts_the_fine_tuning(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tuning(folder / "one", "started", "arcface", *WHOLE, "--trainer.output", str(tmp_path / "run"))
    words += ["--trainer.dry_run", "true", "--init_from", json.dumps([{"path": str(folder / "one" / "mae")}])]
    parsed = parse(words)
    assert train(parsed.config, parsed.resolved).steps == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert "groups   9: 8 below, and the head's" in shown
    assert "layer 0 (no decay)" in shown and "12 classes" in shown
    assert "rates    backbone: 0 at step 0, 0.001 at step 1" in shown
    assert "encoder of a masked autoencoder -> backbone: 32 tensors loaded" in shown
    assert "not in the file: backbone.prompts" in shown
    state = open_checkpoint(folder / "one" / "mae").method_state()
    for name, value in parsed.config.method.backbone.state_dict().items():  # type: ignore[attr-defined]
        if not name.startswith("prompts"):
            assert np.array_equal(value.numpy(), state[f"networks.mae.encoder.{name}"].numpy()), name
