"""`facex` itself: light, exit codes, the launcher's flag, plugin commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from facex import cli
from facex.errors import TrainingError

Install = Callable[..., None]


def test_help_imports_nothing_heavy(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from facex import cli; cli.main(['--help']);"
        "print([m for m in ('torch', 'numpy', 'deepspeed', 'jsonargparse', 'cv2') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert all(name in out for name in cli.COMMANDS)
    install("facex-x", {"facex.commands": {"shout": "shout_plugin:main"}})
    assert cli.main(["--help"]) == 0
    assert "shout" in capsys.readouterr().out
    assert "shout_plugin" not in sys.modules


def test_a_plugin_command_runs(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(
        "facex-x",
        {"facex.commands": {"say": "say_plugin:main"}},
        {"say_plugin.py": "def main(argv):\n    print(argv)\n"},
    )
    assert cli.main(["say", "a", "--b"]) == 0
    assert capsys.readouterr().out == "['a', '--b']\n"
    install("facex-y", {"facex.commands": {"bad": "bad_plugin:main"}}, {"bad_plugin.py": "import not_there"})
    assert cli.main(["bad"]) == 2
    assert "facex-y 1.0 (bad_plugin:main) failed to import: ModuleNotFoundError" in capsys.readouterr().err


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("facex: error: there is no command 'trian'")
    assert "'train'" in error


@pytest.mark.parametrize("form", [["--local_rank", "3"], ["--local_rank=3"], ["--local-rank=3"]])
def test_local_rank_before_the_command(
    form: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert cli.main([*form, "--version"]) == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli.main([*form, "--version"]) == 2
    assert "LOCAL_RANK is 1" in capsys.readouterr().err
    monkeypatch.delenv("LOCAL_RANK")
    assert cli.main([*form, "--version"]) == 0
    assert os.environ.pop("LOCAL_RANK") == "3"


@pytest.mark.parametrize("form", [["--local_rank"], ["--local_rank", "train"]])
def test_local_rank_without_a_number(form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(form) == 2
    assert "--local_rank" in capsys.readouterr().err


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    def fail(argv: list[str]) -> int:
        raise TrainingError("loss is NaN")

    monkeypatch.setattr(cli, "_command", lambda name: fail)
    assert cli.main(["train"]) == 1


def test_plugins_command(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("facex-broken", {"facex.margins": {"M": "broken_margin:M"}}, {"broken_margin.py": "1 / 0"})
    assert cli.main(["plugins"]) == 0
    assert "ERROR  ZeroDivisionError" in capsys.readouterr().out
    assert cli.main(["plugins", "--json"]) == 0
    listed = {p["distribution"]: p for p in json.loads(capsys.readouterr().out)["plugins"]}
    assert listed["facex-broken"]["version"] == "1.0"
    assert listed["facex-broken"]["adds"][0]["kind"] == "margin"
    assert "ZeroDivisionError" in listed["facex-broken"]["adds"][0]["error"]


def test_names_of_the_core_hide_a_plugins(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(
        "facex-x",
        {"facex.commands": {"train": "x_plugin:main"}, "facex.backbones": {"iresnet50": "x_plugin:net"}},
        {"x_plugin.py": "def main(argv): return 7\ndef net(): pass\n"},
    )
    assert cli.main(["plugins", "--no-import"]) == 0
    out = capsys.readouterr().out
    assert "hidden: the core has a command of that name" in out
    assert "hidden: the core has a backbone of that name" in out


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"facex", "torch", "deepspeed", "extension", "jpeg decoder", "cuda"} <= facts.keys()


def test_info_backbones(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facex.models.backbone_names", lambda: ["iresnet18", "resface_s"])
    assert cli.main(["info", "--backbones"]) == 0
    out = capsys.readouterr().out
    assert "24,025,600" in out
    assert "112x112" in out


def test_module_form() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "facex", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert out.stdout.startswith("facex ")


def test_commands_of_one_process_say_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert cli.main(["pack", "a", "b"]) == 2
    assert "facex pack runs as one process" in capsys.readouterr().err
