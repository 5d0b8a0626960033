"""Command line and YAML: short names, overrides, misspelt keys, launcher options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from facex.errors import ConfigError
from facex.train.config import NetworkConfig
from facex.train.parsing import parse, parse_object, take_launcher_options
from facex.train.paths import expand

METHOD = ["--method=Recogniser", "--method.margin=ArcFace", "--method.backbone=r18", "--method.embedding_size=8"]
SMALL = ['--method.backbone_options={"width": 0.125, "input_size": 32}', "--method.input={height: 32, width: 32}"]
BASE = [*METHOD, *SMALL, "--data.path=faces"]


def test_a_yaml_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    method = {"class_path": "Recogniser", "init_args": {"margin": "ArcFace", "backbone": "r18", "embedding_size": 8}}
    method["init_args"] |= {
        "backbone_options": {"width": 0.125, "input_size": 32},
        "input": {"height": 32, "width": 32},
    }  # type: ignore[operator]
    content = {
        "method": method,
        "data": {"path": "faces"},
        "trainer": {"epochs": 3},
        "networks": {"backbone": {"every": 2}},
    }
    path.write_text(yaml.safe_dump(content))
    parsed = parse(["--config", str(path), "--trainer.epochs", "5", "--trainer.clip.norm", "5"])
    assert parsed.config.trainer.epochs == 5
    assert parsed.config.trainer.clip.norm == 5
    assert isinstance(parsed.config.networks["backbone"], NetworkConfig)
    assert parsed.config.networks["backbone"].every == 2
    assert parsed.resolved["method"]["init_args"]["embedding_size"] == 8
    again = parse_object(yaml.safe_load(parsed.text))
    assert again.resolved == parsed.resolved


def test_networks_start_from_the_seed() -> None:
    first, same, other = (
        parse([*BASE, f"--trainer.seed={seed}"]).config.method.networks()["backbone"] for seed in (1, 1, 2)
    )
    weights = [next(iter(net.parameters())) for net in (first, same, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["--trainer.glbal_batch=3"], "trainer.global_batch"),
        (["--optimiser.lr=3"], "optimizer.lr"),
        (["--trainer.epoch=3"], "trainer.epochs"),
    ],
)
def test_a_misspelt_option_names_the_nearest(argv: list[str], meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        parse([*BASE, *argv])


@pytest.mark.parametrize("margin", ["ArcFce", '{"class_path": "ArcFce"}'])
def test_a_misspelt_margin_names_the_nearest(margin: str) -> None:
    with pytest.raises(ConfigError, match=r"no margin 'ArcFce'; did you mean 'ArcFace'"):
        parse(["--method=Recogniser", f"--method.margin={margin}", "--data.path=x"])


def test_a_misspelt_transform_and_a_margins_option() -> None:
    with pytest.raises(ConfigError, match=r"no transform 'HorizontalFlp'; did you mean 'HorizontalFlip'"):
        parse([*BASE, "--data.transforms=[HorizontalFlp]"])
    with pytest.raises(ConfigError, match="did you mean 's'"):
        parse([*BASE, "--method.margin.sc=3"])


def test_a_misspelt_key_in_a_file_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"micro_bach": 3}}))
    with pytest.raises(ConfigError, match=r"trainer\.micro_batch"):
        parse([*BASE, "--config", str(path)])
    path.write_text(yaml.safe_dump({"trainr": {"micro_batch": 3}}))
    with pytest.raises(ConfigError, match="did you mean 'trainer"):
        parse([*BASE, "--config", str(path)])


def test_an_unknown_method_and_a_wrong_value() -> None:
    with pytest.raises(ConfigError, match="Recogniser"):
        parse(["--method=Recognizer", "--data.path=x"])
    with pytest.raises(ConfigError, match="zero"):
        parse([*BASE, "--trainer.zero=7"])


def test_a_methods_own_option_that_is_misspelt() -> None:
    with pytest.raises(ConfigError, match="did you mean 'embedding_size'"):
        parse([*BASE, "--method.embeding_size=3"])


def test_help_shows_the_methods_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        parse(["--method=Recogniser", "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "embedding_size" in shown
    assert "--trainer.global_batch" in shown
    assert "usage: facex train" in shown
    assert "__main__" not in shown
    assert "usage: pytest" not in shown


def test_the_methods_options_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        parse(["--method=Recogniser", "--method.help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "--method.embedding_size" in shown
    assert "--trainer.global_batch" not in shown


def test_print_config_prints_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*BASE, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["seed"] == 0


def test_launcher_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"steps_per_print": 3}))
    rest, block = take_launcher_options(
        ["--local_rank=1", "--deepspeed", "--deepspeed_config", str(path), "--data.path", "x"]
    )
    assert rest == ["--data.path", "x"]
    assert block == {"steps_per_print": 3}
    with pytest.raises(ConfigError, match="LOCAL_RANK is 1"):
        take_launcher_options(["--local_rank", "0"])
    with pytest.raises(ConfigError, match="not a rank"):
        take_launcher_options(["--local_rank", "first"])
    path.write_text("[")
    with pytest.raises(ConfigError, match="JSON"):
        take_launcher_options(["--deepspeed_config", str(path)])
    assert parse([*BASE, '--deepspeed={"steps_per_print": 4}']).config.deepspeed == {"steps_per_print": 4}


def test_a_path_names_the_variable_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACES", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert expand("${FACES}/a", "data.path") == Path("/data/a")
    with pytest.raises(ConfigError, match="NOWHERE"):
        expand("${NOWHERE}/a", "data.path")
