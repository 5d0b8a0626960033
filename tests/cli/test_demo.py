"""`facex demo`: a recipe alone or a plan of stages, what is started with which words, what is reused, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facex.commands import demo
from facex.commands.demo import Stage, find_plan, read_plan
from facex.errors import ConfigError, TrainingError

PLAN = """
report: report
stages:
  - {title: first, train: demo.yaml, folder: pre}
  - {title: second, train: demo_fine.yaml, folder: fine, options: "--init_from '[{path: $output/pre}]' --trainer.epochs 2"}
  - {title: numbers, run: "eval --checkpoint $output/fine --compare pre=$output/pre --bin $data/val.bin --report $output/report"}
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A folder with two methods; commands are noted instead of run, and leave what they would."""
    monkeypatch.chdir(tmp_path)
    for name in ("alone", "staged"):
        (tmp_path / "configs" / name).mkdir(parents=True)
        (tmp_path / "configs" / name / "demo.yaml").write_text("trainer: {epochs: 1}")
    (tmp_path / "configs" / "staged" / "demo_fine.yaml").write_text("trainer: {epochs: 2}")
    (tmp_path / "configs" / "staged" / "demo.plan.yaml").write_text(PLAN)
    commands: list[list[str]] = []

    def run(title: str, command: list[str], environment: dict[str, str]) -> None:
        words = command[command.index("facex") + 1 :]
        commands.append(words)
        if words[0] == "synth":
            demo.DATA.mkdir(parents=True, exist_ok=True)
            (demo.DATA / "facex.json").write_text("{}")
        elif words[0] == "train":
            (tmp_path / words[words.index("--trainer.output") + 1]).mkdir(parents=True)
        else:
            report = tmp_path / words[words.index("--report") + 1]
            report.mkdir(parents=True, exist_ok=True)
            (report / "results.json").write_text(json.dumps({"rows": len(commands)}))

    monkeypatch.setattr(demo, "_run", run)
    return commands


def test_a_recipe_alone_is_trained_and_verified(started: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--method", "alone", "--identities", "7", "--images", "3"]) == 0
    assert started == [
        ["synth", "runs/demo-data", "--identities", "7", "--images-per-identity", "3"],
        ["train", "--config", "configs/alone/demo.yaml", "--trainer.output", "runs/demo-alone"],
        [
            *("eval", "--checkpoint", "runs/demo-alone", "--bin", "runs/demo-data/val.bin", "--baselines"),
            *("--report", "runs/demo-alone/report"),
        ],
    ]
    assert json.loads(Path("runs/demo-alone/results.json").read_text()) == {"rows": 3}
    assert "Whole demo" in capsys.readouterr().out


def test_a_plan_is_followed_and_finished_parts_are_reused(started: list[list[str]]) -> None:
    demo.main(["--method", "staged", "--output", "out"])
    assert [words[0] for words in started] == ["synth", "train", "train", "eval"]
    assert started[2][-4:] == ["--init_from", "[{path: out/pre}]", "--trainer.epochs", "2"]
    assert started[2][started[2].index("--trainer.output") + 1] == "out/fine"
    assert started[3][1:5] == ["--checkpoint", "out/fine", "--compare", "pre=out/pre"]
    started.clear()
    demo.main(["--method", "staged", "--output", "out"])
    assert [words[0] for words in started] == ["synth", "eval"]
    started.clear()
    Path("configs/staged/demo.yaml").write_text("trainer: {epochs: 3}")
    demo.main(["--method", "staged", "--output", "out"])
    assert [words[0] for words in started] == ["synth", "train", "train", "eval"], "what builds on it is trained again"
    started.clear()
    Path("configs/staged/demo_fine.yaml").write_text("trainer: {epochs: 4}")
    demo.main(["--method", "staged", "--output", "out"])
    assert [words[0] for words in started] == ["synth", "train", "eval"]


def test_the_magface_demo_keeps_its_folder(tmp_path: Path, started: list[list[str]]) -> None:
    (tmp_path / "configs" / "magface").mkdir()
    (tmp_path / "configs" / "magface" / "demo.yaml").write_text("{}")
    demo.main([])
    assert started[1] == ["train", "--config", "configs/magface/demo.yaml", "--trainer.output", "runs/demo"]
    assert find_plan(Path("configs/magface")).stages[0] == Stage("training", Path("configs/magface/demo.yaml"))


def test_a_method_without_a_demo(started: list[list[str]]) -> None:
    with pytest.raises(ConfigError, match="methods with a demo: alone, staged"):
        demo.main(["--method", "nobody"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stages: [", "not a plan that can be read"),
        ("stages: {}", "needs `stages`, a list"),
        ("stages: [{run: eval}]\nstage: 1", "unknown key 'stage'"),
        ("stages: [{title: x}]", "stage 1 needs either `train`"),
        ("stages: [{run: eval, train: demo.yaml}]", "needs either"),
        ("stages: [{run: eval, folder: x}]", "unknown key 'folder'"),
        ("stages: [{run: 'eval $outpt'}]", r"\$output and \$data alone"),
        ("stages: [{train: other.yaml}]", "other.yaml does not exist"),
        ("stages: [{train: demo.yaml, folder: a}, {train: demo.yaml, folder: a}]", "write into the folder 'a'"),
        ("stages: [{train: demo.yaml}, {train: demo.yaml, folder: a}]", "a `folder` of its own"),
    ],
)
def test_bad_plans_are_refused(text: str, says: str, started: list[list[str]]) -> None:
    path = Path("configs/alone/demo.plan.yaml")
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


def test_a_command_that_fails_ends_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingError, match="'false x' ended with exit code 1"):
        demo._run("part", ["false", "x"], {})


def test_a_seed_goes_to_every_training_and_trains_again(started: list[list[str]]) -> None:
    demo.main(["--method", "staged", "--output", "out"])
    started.clear()
    demo.main(["--method", "staged", "--output", "out", "--seed", "3"])
    trainings = [words for words in started if words[0] == "train"]
    assert len(trainings) == 2
    assert all(words[words.index("--trainer.seed") + 1] == "3" for words in trainings)
