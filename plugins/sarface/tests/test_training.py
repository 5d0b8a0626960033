"""Real trainings on rendered faces with label maps: two ranks and one, stops and resumes, cadence, parser, both stages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from facex_sarface.swiftformer import SwiftFormerParser

from facex.commands import synth
from facex.errors import ConfigError
from facex.train.load_run import load_run
from facex.train.parsing import parse
from plugins.sarface.tests.tiny_sarface import PARSER, run, words
from tests.ports import free_port, job_environment

ROOT = Path(__file__).resolve().parents[3]
COMPLETED = [
    *("--method.exploration", "{kind: mixture, eps: 0.5, eps_end: 0.1, steps: 4}", "--method.samples", "2"),
    *("--method.reward", "{kind: margin, sparsity: fraction, min_area: 0.05}", "--method.entropy.kind", "true"),
    *("--method.baseline.kind", "ema", "--method.rec_bn", "train", "--method.clean_probability", "0.5"),
    *("--method.backbone_options", "{width: 0.125, blocks: [1, 1, 1, 1], dropout: 0.4}"),
]
SMALL_PARSER = "{size: 64, saved: %s, options: {widths: [8, 16, 16, 16], depths: [1, 1, 1, 1]}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 rendered pictures of 6 people, 48 pixels wide, with their label maps."""
    root = tmp_path_factory.mktemp("sarface")
    argv = ["--identities", "6", "--images-per-identity", "8", "--size", "48", "--split", "train", "--workers", "1"]
    assert synth.main([str(root / "faces"), *argv, "--fields", "[parsing]"]) == 0
    return root


def command(folder: Path, name: str, stage: str = "policy", *more: str) -> list[str]:
    return words(folder / "faces", folder / name, stage, *more)


def metrics(folder: Path, name: str) -> list[dict[str, Any]]:
    timed = ("images_per_second", "share/")
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in m.items() if not k.startswith(timed)} for m in lines if "policy/loss" in m]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_run(folder / name).method.state_dict()


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[dict[str, Any]]:
    run(command(folder, "whole"))
    return metrics(folder, "whole")


def test_two_ranks_are_one_with_twice_the_accumulation(folder: Path, whole: list[dict[str, Any]]) -> None:
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    argv = [*launcher, "--master_port", str(free_port()), "--module", "facex", "train", *command(folder, "two")]
    done = subprocess.run(
        argv, cwd=ROOT, env=job_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    two = metrics(folder, "two")
    for name in ("policy/loss", "policy/reinforce", "policy/reward", "policy/area", "recogniser/loss"):
        mine, theirs = ([m[name] for m in run if name in m] for run in (two, whole))
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6), name
        assert len(set(theirs)) > 1, name
    ours, theirs = weights(folder, "two"), weights(folder, "whole")
    for key, value in theirs.items():
        if "running_" not in key and not key.endswith("num_batches_tracked"):  # each rank has its own
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_the_recogniser_steps_on_the_last_batch_alone(folder: Path, whole: list[dict[str, Any]]) -> None:
    assert ["recogniser/loss" in m for m in whole] == [False, True] * 3
    assert [m["applied"] for m in whole] == [1, 2, 3, 4, 5, 6]
    run(command(folder, "begun", "policy", "--trainer.max_steps", "1"))
    first, last = (load_run(folder / name).method.state_dict() for name in ("begun", "whole"))
    torch.manual_seed(0)
    fresh = parse(command(folder, "fresh")).config.method.state_dict()
    backbone = [key for key in fresh if key.startswith("backbone.")]
    statistics = [key for key in backbone if "running_" in key or "tracked" in key]
    assert all(torch.equal(first[key], fresh[key]) for key in backbone)  # the policy alone has been stepped
    assert all(torch.equal(last[key], fresh[key]) for key in statistics)
    assert not any(torch.equal(last[key], fresh[key]) for key in backbone if fresh[key].ndim > 1)
    assert not any(torch.equal(first[key], fresh[key]) for key in fresh if key.startswith("policy.fc"))


def test_a_run_that_stops_between_two_steps_of_the_recogniser_goes_on_bit_for_bit(
    folder: Path, whole: list[dict[str, Any]]
) -> None:
    for more in (["--trainer.max_steps", "3"], ["--trainer.resume", "auto"]):
        run(command(folder, "stopped", "policy", *more))
    assert metrics(folder, "stopped") == whole
    same(weights(folder, "stopped"), weights(folder, "whole"))


def test_everything_that_was_completed_resumes_too(folder: Path) -> None:
    run(command(folder, "completed", "policy", *COMPLETED, "--trainer.steps", "4"))
    for more in (["--trainer.max_steps", "2"], ["--trainer.resume", "auto"]):
        run(command(folder, "completed_stopped", "policy", *COMPLETED, "--trainer.steps", "4", *more))
    assert metrics(folder, "completed_stopped") == metrics(folder, "completed")
    ours, theirs = weights(folder, "completed_stopped"), weights(folder, "completed")
    same(ours, theirs)
    assert "baseline.mean" in theirs and float(theirs["baseline.mean"]) != 0


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_stage_after_stage_with_a_parser_that_never_moves(folder: Path) -> None:
    torch.manual_seed(9)
    parser = SwiftFormerParser(**PARSER.options)
    torch.save(parser.state_dict(), folder / "parser.pth")
    source = f"{{path: {folder / 'parser.pth'}, network: parser}}"
    two = ["--trainer.steps", "2", "--method.parsing", "parser", "--method.parser"]
    run(command(folder, "first", "pretrain", *two, SMALL_PARSER % "false", "--init_from", f"[{source}]"))
    begun = ["--init_from", f"[{{path: {folder / 'first'}, head: true}}, {source}]", "--method.eval_input", "masked"]
    images = torch.zeros(1, 3, 48, 48)
    for saved in ("true", "false"):
        result = run(command(folder, f"parser_{saved}", "policy", *two, SMALL_PARSER % saved, *begun))
        assert result.losses["policy/area"] > 0 and "recogniser/loss" in result.losses
        method = load_run(folder / f"parser_{saved}").method
        equal = [torch.equal(value, method.parser.state_dict()[key]) for key, value in parser.state_dict().items()]
        nets = {**method.networks(), "parser": method.parser}
        assert all(equal) == (saved == "true")
        if saved == "true":
            assert torch.isfinite(method.embed(images, nets).vector).all()
    with pytest.raises(ConfigError, match="holds no face parser"):
        method.embed(images, nets)
    full = load_run(folder / "parser_false", options={"eval_input": "full"}).method
    assert torch.isfinite(full.embed(images, full.networks()).vector).all()
