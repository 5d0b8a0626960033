"""How a run starts: the plan's orders and limits, a plugin's data set, verification sets, class centres, folders in use."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from facex.commands.convert import write_run
from facex.errors import CheckpointError, ConfigError, FacexError, TrainingError
from facex.eval.run import evaluate_bins
from facex.methods.spec import Source
from facex.train.checkpoint import Checkpoint, CheckpointManager
from facex.train.config import DataConfig, EvaluationConfig, HeadConfig, OptimizerConfig, TrainConfig, TrainerConfig
from facex.train.evaluation import Evaluator
from facex.train.head import TrainedHead, init_head
from facex.train.launch import Ranks, _meet
from facex.train.reshard import reshard_run
from facex.train.runstate import RunState, find_resume
from facex.train.setup import make_plan, open_data
from tests.eval.tiny import make_bin
from tests.train.tiny import TinyFaces, TinyRecogniser

RANKS = Ranks(0, 1, 0, torch.device("cpu"))


def config(data: dict[str, Any] | None = None, **trainer: Any) -> TrainConfig:
    values = {"global_batch": 32, "steps": 2, **trainer}
    return TrainConfig(TinyRecogniser(), DataConfig(**{"path": "x", **(data or {})}), TrainerConfig(**values))


class PluginFaces(TinyFaces):
    """A plugin's data set."""

    def __init__(self, path: Path, color: str, fields: tuple[str, ...], people: int = 7) -> None:
        super().__init__(classes=people)
        self.asked = (path, color, fields)


def test_the_order_decides_how_long_an_epoch_is() -> None:
    two = Ranks(0, 2, 0, torch.device("cpu"))
    assert make_plan(config(), two, 95).batches_per_epoch == 2
    # torch's sampler goes round: 48 entries on each of two ranks
    assert make_plan(config({"order": "distributed_sampler"}), two, 95).batches_per_epoch == 3
    assert make_plan(config({"order": "magface_list"}), two, 95).batches_per_epoch == 3


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"log_every": 0}, "trainer.log_every=0"),
        ({"micro_batch": 0}, "trainer.micro_batch=0"),
        ({"max_steps": 0}, "trainer.max_steps=0"),
        ({"checkpoint_every": -1}, "trainer.checkpoint_every=-1"),
    ],
)
def test_numbers_that_cannot_be(trainer: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_plan(config(**trainer), RANKS, 100)


def test_a_plugins_data_set() -> None:
    made = config({"dataset": f"{__name__}.PluginFaces", "dataset_options": {"people": 5}, "num_classes": 5})
    dataset = open_data(made, made.method, RANKS)
    assert dataset.num_classes == 5
    assert dataset.asked == (Path("x"), "rgb", ("image", "label"))
    made.data.num_classes = 6
    with pytest.raises(FacexError, match="5 classes"):
        open_data(made, made.method, RANKS)
    for data, words in (
        ({"dataset": "Nothing"}, "no dataset 'Nothing'"),
        ({"dataset": f"{__name__}.PluginFaces", "dataset_options": {"peple": 5}}, "peple"),
    ):
        made = config(data)
        with pytest.raises(ConfigError, match=words):
            open_data(made, made.method, RANKS)


def test_verification_sets_are_read_before_training(tmp_path: Path) -> None:
    def evaluator(*bins: Path, selection: str | None = None) -> Evaluator:
        wanted = EvaluationConfig([str(b) for b in bins], selection=selection)
        return Evaluator(wanted, TinyRecogniser(), None, RANKS)  # type: ignore[arg-type]

    good, uneven, broken = make_bin(tmp_path / "lfw.bin"), make_bin(tmp_path / "short.bin", 12), tmp_path / "broken.bin"
    broken.write_bytes(b"no pickle")
    assert evaluator(good, selection="lfw")
    assert not evaluator()
    for path, words in ((uneven, "12 pairs"), (broken, "broken.bin"), (tmp_path / "none.bin", "no such file")):
        with pytest.raises(FacexError, match=words):
            evaluator(good, path)


def test_verification_in_training_has_the_folds_that_were_asked_for(tmp_path: Path) -> None:
    uneven, method = make_bin(tmp_path / "rmfvd.bin", 13), TinyRecogniser()
    networks: Any = SimpleNamespace(engines={}, frozen={}, nets=method.networks)
    with pytest.raises(FacexError, match="13 pairs do not divide into 5 equal folds"):
        Evaluator(EvaluationConfig([str(uneven)], folds=5), method, networks, RANKS)
    wanted = EvaluationConfig([str(uneven)], folds=5, uneven_folds=True)
    found = Evaluator(wanted, method, networks, RANKS).run()["rmfvd"]
    plain = evaluate_bins(method, method.networks(), [uneven], folds=5, uneven_folds=True)["rmfvd"]
    assert (found["accuracy"], found["std"]) == (plain["accuracy"], plain["std"])
    other = evaluate_bins(method, method.networks(), [uneven], folds=2, uneven_folds=True)["rmfvd"]
    assert found["std"] != other["std"]


def converted(folder: Path, classes: int = 5) -> tuple[Path, torch.Tensor]:
    """A run folder as `facex convert` writes it, and its class centres."""
    centres = torch.randn(classes, 8)
    write_run(folder, TinyRecogniser(), "tests.train.tiny.TinyRecogniser", {}, centres, "model.pth")
    return folder, centres


def test_class_centres_from_a_run(tmp_path: Path) -> None:
    path, centres = converted(tmp_path / "run")
    method = TinyRecogniser()
    assert method.head is not None
    head = TrainedHead(method.head, HeadConfig(), OptimizerConfig(), 5, RANKS, seed=0)
    before = head.module.weight.detach().clone()
    assert init_head(head, method, [Source(path)]) == []
    assert head.module.weight.equal(before)
    (report,) = init_head(head, method, [Source(path, head=True)])
    assert "5 class centres" in str(report) + report.loaded[0]
    assert torch.allclose(head.module.weight.float(), centres)
    other = TrainedHead(method.head, HeadConfig(), OptimizerConfig(), 6, RANKS, seed=0)
    with pytest.raises(CheckpointError, match="num_classes is 5, this head has 6"):
        init_head(other, method, [Source(path, head=True)])
    with pytest.raises(ConfigError, match="has no head"):
        init_head(None, method, [Source(path, head=True)])


def test_a_folder_in_use_is_not_started_in(tmp_path: Path) -> None:
    first, second = (converted(tmp_path / name)[0] for name in ("first", "second"))
    asked = TrainerConfig(output=str(first))
    with pytest.raises(ConfigError, match=r"already holds checkpoints.*--trainer\.resume auto"):
        find_resume(asked)
    asked.resume = str(second)
    with pytest.raises(ConfigError, match="another run's"):
        find_resume(asked)
    for asked.resume in ("auto", str(first)):
        found = find_resume(asked)
        assert found is not None
        assert json.loads((found.path / "meta.json").read_text())["converted_from"] == "model.pth"
    assert find_resume(TrainerConfig(output=str(tmp_path / "new"), resume="auto")) is None


def test_weights_that_are_not_finite_are_not_saved() -> None:
    state = RunState.__new__(RunState)
    head = SimpleNamespace(module=SimpleNamespace(weight=torch.ones(3, 2)))
    state._t = SimpleNamespace(head=head, clock=SimpleNamespace(batches=3), ranks=RANKS)  # type: ignore[assignment]
    state._check_finite({"networks.backbone.fc.weight": torch.ones(4), "counter": torch.tensor(3)})
    for value in (float("nan"), float("inf")):
        with pytest.raises(
            TrainingError, match=r"after step 3 on rank 0.*backbone\.fc\.weight.*no checkpoint was written"
        ):
            state._check_finite({"networks.backbone.fc.weight": torch.tensor([1.0, value])})
    head.module.weight[1, 1] = float("nan")
    with pytest.raises(TrainingError, match="class centres"):
        state._check_finite({})


def test_a_rank_that_does_not_come_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match="MASTER_ADDR is not set"):
        _meet(0, 2, "gloo", 1)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(TrainingError, match=r"rank 0 could not meet the other 1 rank\(s\) at 127\.0\.0\.1"):
        _meet(0, 2, "gloo", 1)


def test_what_another_number_of_ranks_cannot_go_on_with(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "run")
    manager.save(3, meta={"zero": 1, "order": "magface_list"}, method_state={})
    with pytest.raises(CheckpointError, match=r"data\.order=magface_list.*resume it on 1 ranks"):
        reshard_run(tmp_path / "run", 2)
    universal = Checkpoint(tmp_path / "run", {"world_size": 2, "zero": 1, "universal": True})
    universal.check_world(4, 2)
    for zero in (0, 3):
        with pytest.raises(CheckpointError, match=f"resume it with 1 or 2, not {zero}"):
            universal.check_world(4, zero)
