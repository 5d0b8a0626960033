"""README.md: short, every command in it exists and parses, every file it links is there."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from facex.cli import COMMANDS
from tests.docs.blocks import blocks
from tests.docs.migrating import ROOT, check_command

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
SMALL = ["--method.backbone", "iresnet18", "--method.backbone_options", "{width: 0.125}"]
_OURS = ("make", "facex", "deepspeed", "torchrun")


def quoted_commands() -> list[str]:
    """Lines of the shell blocks, and what stands between backquotes and is a whole command."""
    lines = [line for block in blocks(README) if block.language == "bash" for line in block.text.splitlines()]
    inline = [q for q in re.findall(r"`([^`\n]+)`", TEXT) if q.split()[0] in _OURS and " " in q]
    return [line for line in dict.fromkeys([*lines, *inline]) if line.strip() and not line.startswith("#")]


COMMAND_LINES = quoted_commands()


def test_it_is_short_and_has_the_commands() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert {"make demo", "make test"} <= set(COMMAND_LINES)
    named = {c.split()[1] for c in COMMAND_LINES if c.startswith("facex ")}
    assert {"train", "eval", "extract", "pack", "convert"} <= named
    assert named <= {*COMMANDS, "magface-range"}


@pytest.mark.parametrize("command", COMMAND_LINES)
def test_command(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    assert words[0] in _OURS, f"{command}: who checks this command?"
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif "--print_config" in words or "--method.help" in words:
        with pytest.raises(SystemExit) as ended:
            check_command(command, [])
        assert ended.value.code == 0
        assert "lambda_g" in capsys.readouterr().out
    else:
        check_command(command, SMALL)


def test_linked_files_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert not [link for link in links if not (ROOT / link).exists()]


def test_nothing_waits_to_be_filled_in() -> None:
    assert not re.findall(r"@[A-Z]+@|\bTODO\b|\bTBD\b", TEXT)
