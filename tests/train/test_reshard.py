"""DeepSpeed engines in our checkpoints: written on two ranks, converted, and resumed on one with the same losses."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from facex.errors import CheckpointError
from facex.train.checkpoint import open_checkpoint
from facex.train.reshard import reshard_run

ROOT = Path(__file__).parents[2]


def start(folder: Path, what: str, world: int) -> None:
    """Run tests/train/reshard_worker.py on `world` gloo ranks."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    common = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "tests.train.reshard_worker", str(folder), what]
    started = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(r), "LOCAL_RANK": str(r)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(world)
    ]
    outputs = [p.communicate(timeout=240)[0] for p in started]
    assert all(p.returncode == 0 for p in started), "\n".join(outputs)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    start(folder, "train", 2)
    return folder


def test_resume_on_one_rank_after_conversion(two_ranks, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(two_ranks, folder)
    with pytest.raises(CheckpointError, match="ZeRO-0: it can be resumed on any number of ranks as it is"):
        reshard_run(folder / "z0", world_size=1)
    for zero in (1, 2):
        with pytest.raises(CheckpointError, match=r"facex convert --checkpoint .*--world-size 1"):
            open_checkpoint(folder / f"z{zero}").check_world(1, zero)
        made = reshard_run(folder / f"z{zero}", world_size=1)
        assert made.name == "step_00000003_world1"
        assert open_checkpoint(folder / f"z{zero}").path == made
        assert [p.name for p in (made / "rank_state").iterdir()] == ["rank_0.pt"]
        with pytest.raises(CheckpointError, match="converted already"):
            reshard_run(folder / f"z{zero}", 1)
    start(folder, "resume", 1)
    before, after = (json.loads((folder / f"{what}.json").read_text()) for what in ("train", "resume"))
    for case, losses in before.items():
        assert after[case] == pytest.approx(losses, rel=1e-5), case


def test_resume_on_two_ranks_is_exact(two_ranks, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(two_ranks, folder)
    start(folder, "resume", 2)
    before, after = (json.loads((folder / f"{what}.json").read_text()) for what in ("train", "resume"))
    assert after == before


def test_damaged_engine_file_is_named(two_ranks, tmp_path):
    run = tmp_path / "z1"
    shutil.copytree(two_ranks / "z1", run)
    path = next(run.rglob("*rank_1*optim_states.pt"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=path.name):
        reshard_run(run, 1)
    with pytest.raises(CheckpointError, match="at least one rank"):
        reshard_run(run, 0)
    assert open_checkpoint(run, verify=False).path.name == "step_00000003"
