"""Checkpoints: all or nothing, exact, refused with a reason when they are damaged or of another architecture."""

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facex.errors import CheckpointError
from facex.methods import Frozen, Method
from facex.train import checkpoint_files as files
from facex.train.checkpoint import CheckpointManager, load_run, open_checkpoint
from facex.train.method_state import load_method_state, method_state


class Tiny(Method):
    """Two networks, a saved teacher, an unsaved parser, a running centre."""

    def __init__(self, width: int = 4, deep: bool = False) -> None:
        super().__init__()
        self.width = width
        self.backbone = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        if deep:
            self.backbone.append(nn.Linear(width, width))
        self.policy = nn.Linear(2, 2)
        self.teacher = nn.Linear(3, width)
        self.parser = nn.Linear(3, 1)
        self.register_buffer("centre", torch.randn(width))
        self.temperature = nn.Parameter(torch.randn(()))

    def networks(self):
        return {"backbone": self.backbone, "policy": self.policy}

    def frozen(self):
        return {"teacher": Frozen(self.teacher, saved=True), "parser": Frozen(self.parser)}


META = {"method": {"class_path": f"{__name__}.Tiny", "init_args": {"width": 4}}, "networks": {"backbone": "Tiny net"}}


@pytest.fixture
def manager(tmp_path):
    return CheckpointManager(tmp_path / "run", keep_last=2, keep_best=1)


def save(manager, step, method=None, **options):
    return manager.save(step, meta=META, method_state=method_state(method or Tiny()), **options)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_names_in_the_file_and_exact_reload(manager):
    method = Tiny()
    method.backbone(torch.randn(5, 3))  # moves the running statistics
    path = save(manager, 7, method)
    state = open_checkpoint(path).method_state()
    assert "networks.backbone.1.running_mean" in state
    assert "frozen.teacher.weight" in state
    assert {k for k in state if k.startswith("method.")} == {"method.centre", "method.temperature"}
    assert not any("parser" in k for k in state)
    run = load_run(manager.folder.parent)
    assert type(run.method) is not Method
    assert same(method_state(run.method), method_state(method))
    assert not run.method.training
    assert run.meta["step"] == 7
    assert run.path == path


def test_last_best_and_pruning(manager):
    for step, score in ((10, 0.5), (20, 0.9), (30, 0.9), (40, float("nan")), (50, 0.7)):
        save(manager, step, score=score)
    assert sorted(p.name for p in manager.folder.iterdir()) == [
        "latest",
        "step_00000020",
        "step_00000040",
        "step_00000050",
    ]
    assert manager.open("last").meta["step"] == 50
    assert manager.open("best").meta["step"] == 20
    assert manager.open(40).meta["score"] is None
    assert load_run(manager.folder.parent, 20).meta["score"] == 0.9
    with pytest.raises(CheckpointError, match=r"no checkpoint 30; there are step_00000020"):
        manager.open(30)


def test_best_without_scores_and_empty_runs(manager, tmp_path):
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_run(tmp_path / "nowhere")
    save(manager, 1)
    with pytest.raises(CheckpointError, match=r"evaluation.selection was not set"):
        manager.open("best")


def test_same_step_twice_replaces(manager):
    save(manager, 3, score=0.1)
    second = Tiny()
    save(manager, 3, second, score=0.2)
    assert manager.open().meta["score"] == 0.2
    assert same(manager.open().method_state(), method_state(second))
    assert not list(manager.folder.glob(".*"))


def test_random_states_come_back(manager):
    random.seed(3), np.random.seed(4), torch.manual_seed(5)  # noqa: NPY002
    np.random.standard_normal()  # leaves half of a pair behind  # noqa: NPY002
    path = save(manager, 1, rank_state={"counter": 17})
    expected = random.random(), np.random.standard_normal(), torch.rand(2)  # noqa: NPY002
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    state = open_checkpoint(path).rank_state(0)
    assert state["counter"] == 17
    files.restore_random_state(state["random"])
    assert (random.random(), np.random.standard_normal()) == expected[:2]  # noqa: NPY002
    assert torch.equal(torch.rand(2), expected[2])
    assert open_checkpoint(path).rank_state(5) is None


def test_parts_of_the_caller(manager):
    def engines(folder):
        (folder / "engine_backbone").mkdir()
        torch.save({"a": torch.ones(2)}, folder / "engine_backbone" / "x.pt")

    def head(folder):
        folder.mkdir()
        (folder / "shard").write_bytes(b"123")

    checkpoint = open_checkpoint(save(manager, 1, save_engines=engines, save_head=head))
    assert (checkpoint.head_dir / "shard").read_bytes() == b"123"
    assert (checkpoint.engine_dir("backbone") / "x.pt").exists()
    files.check_engine_pickles(checkpoint.engine_dir("backbone"))


@pytest.mark.parametrize("part", ["save_engines", "save_head"])
@pytest.mark.parametrize("kind", ["disk", "writer", "bug"])
def test_a_failing_part_leaves_the_last_good_checkpoint(manager, part, kind):
    first = Tiny()
    save(manager, 1, first)

    def fail(folder):
        (folder / "half").parent.mkdir(exist_ok=True, parents=True)
        (folder / "half").write_bytes(b"x" * 10)
        if kind == "disk":
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "half"))
        raise RuntimeError("PytorchStreamWriter failed writing file" if kind == "writer" else "a bug")

    if kind == "bug" and part == "save_engines":
        with pytest.raises(RuntimeError, match="a bug"):
            save(manager, 2, **{part: fail})
    else:
        with pytest.raises((CheckpointError, RuntimeError), match=r"half: |PytorchStreamWriter|a bug"):
            save(manager, 2, **{part: fail})
    assert sorted(p.name for p in manager.folder.iterdir()) == ["latest", "step_00000001"]
    assert same(method_state(load_run(manager.folder.parent).method), method_state(first))


SMALL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.train.test_checkpoint import Tiny, method_state, META
from facex.train.checkpoint import CheckpointManager
from facex.errors import CheckpointError
import torch
manager = CheckpointManager(sys.argv[1])
manager.save(1, meta=META, method_state=method_state(Tiny()))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
def engines(folder):
    (folder / "engine_backbone").mkdir()
    torch.save(torch.zeros(1_000_000), folder / "engine_backbone" / "x.pt")
state = method_state(Tiny())
for options in ({"save_engines": engines}, {}):
    if not options:
        state["method.centre"] = torch.zeros(1_000_000)
    try:
        manager.save(2, meta=META, method_state=state, **options)
    except CheckpointError as error:
        print(error)
"""


def test_a_really_full_disk(tmp_path):
    """The kernel refuses to write on: torch's and safetensors' own writers fail in the middle of a file."""
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, check=False)
    messages = done.stdout.strip().splitlines()
    assert len(messages) == 2, done.stdout + done.stderr
    assert all("could not write" in m and "the last good checkpoint is" in m for m in messages)
    assert "method.safetensors" in messages[1]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["latest", "step_00000001"]
    assert load_run(tmp_path).meta["step"] == 1


def test_leftovers_of_a_killed_run(manager):
    save(manager, 1)
    (manager.folder / ".step_00000002.part").mkdir()
    (manager.folder / "step_00000001").rename(manager.folder / ".step_00000001.old")
    manager.remove_leftovers()
    assert sorted(p.name for p in manager.folder.iterdir()) == ["latest", "step_00000001"]
    (manager.folder / "latest").unlink()
    assert manager.open().meta["step"] == 1


@pytest.mark.parametrize("name", ["method.safetensors", "meta.json", "rank_state/rank_0.pt", "manifest/rank_0.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_damaged_files_are_named(manager, name, damage):
    path = save(manager, 1) / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x80  # in JSON this is no longer UTF-8
        path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_run(manager.folder.parent)
    if name != "meta.json" or damage != "gone":  # a folder without meta.json is no checkpoint at all
        assert str(path) in str(caught.value)


def test_hostile_pickles_are_refused(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("owned",)

    torch.save({"x": Evil()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt is refused.*asks for print"):
        files.check_engine_pickles(tmp_path)
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        files.read_pickle(tmp_path / "x.pt")
    assert "owned" not in capsys.readouterr().out


def test_another_architecture_is_explained(manager):
    save(manager, 1, Tiny(width=4))
    state = manager.open().method_state()
    with pytest.raises(CheckpointError) as caught:
        load_method_state(Tiny(width=6, deep=True), state, "here.safetensors", "tests.Tiny (4 wide)")
    text = str(caught.value)
    assert "checkpoint: tests.Tiny (4 wide)" in text
    assert "here:       Tiny (backbone: Sequential, 78 parameters; policy: Linear, 6 parameters)" in text
    assert "missing in the checkpoint: networks.backbone.2.weight, networks.backbone.2.bias" in text
    assert "networks.backbone.0.weight (4, 3) instead of (6, 3)" in text
    assert "in all)" in text
    with pytest.raises(CheckpointError, match=r"unknown here: networks\.more"):
        load_method_state(Tiny(), {**state, "networks.more": torch.ones(1)}, "here")


def test_load_leaves_networks_to_their_engines():
    source, target = Tiny(), Tiny()
    before = method_state(target)
    load_method_state(target, method_state(source), "here", only=("frozen.", "method."))
    after = method_state(target)
    assert torch.equal(after["method.centre"], method_state(source)["method.centre"])
    assert torch.equal(after["networks.policy.weight"], before["networks.policy.weight"])


def test_meta_that_names_nothing_usable(manager):
    for method, what in (
        ({}, "does not say which method"),
        ({"class_path": "collections.Counter"}, "cannot be loaded"),
        ({"class_path": "facex_nowhere.Method"}, "cannot be loaded; is the plugin installed"),
        ({"class_path": f"{__name__}.Tiny", "init_args": {"heigth": 3}}, r"does not accept its options.*heigth"),
    ):
        manager.save(1, meta={"method": method}, method_state=method_state(Tiny()))
        with pytest.raises(CheckpointError, match=rf"(?s)meta\.json.*{what}"):
            load_run(manager.folder.parent)


def test_format_and_world_checks(manager):
    path = save(manager, 1)
    checkpoint = manager.open()
    checkpoint.check_world(1, 0)
    sharded = type(checkpoint)(path, {**checkpoint.meta, "world_size": 2, "zero": 2})
    with pytest.raises(
        CheckpointError, match=r"cannot be resumed on 1; convert it first: facex convert .*--world-size 1"
    ):
        sharded.check_world(1, 2)
    with pytest.raises(CheckpointError, match=r"zero=2, not 0"):
        sharded.check_world(2, 0)
    type(checkpoint)(path, {**sharded.meta, "universal": True}).check_world(1, 2)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(CheckpointError, match="checkpoint format 99"):
        manager.open()
