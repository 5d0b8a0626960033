"""docs/migrate/magface.md: every facex command and option on the page parses, and the recipes it names exist."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from facex.train.parsing import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrate" / "magface.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"`([^`\n]+)`", PAGE)
COMMANDS = list(dict.fromkeys(q for q in QUOTED if q.startswith("facex ") or "--module facex" in q))
SMALL = ["--method.backbone", "iresnet18", "--method.backbone_options", "{width: 0.125}"]
# Second column of the options table, and the options named in the text.
OPTIONS = list(dict.fromkeys(q for q in QUOTED if re.match(r"--(method|data|trainer|optimizer|schedule)\.\w+ ", q)))


def our_arguments(command: str) -> list[str]:
    """Command and options after `facex`, the launcher taken away."""
    words = shlex.split(command)
    return words[words.index("facex") + 1 :]


def test_the_page_has_what_it_should() -> None:
    assert len(COMMANDS) >= 15
    assert len(OPTIONS) >= 20
    recipes = {p.name for p in (ROOT / "configs" / "magface").glob("*.yaml")} - {"demo.yaml", "lfw_small.yaml"}
    assert recipes == {Path(r).name for r in re.findall(r"configs/magface/\w+\.yaml", PAGE)}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *argv = our_arguments(command)
    if name == "train":
        parsed = parse([*argv, *SMALL])
        assert parsed.config.trainer.global_batch == 512
        return
    modules = {"magface-range": "facex_magface.range_command"}
    module = importlib.import_module(modules.get(name, f"facex.commands.{name}"))
    assert module.build_parser().parse_args(argv)


@pytest.mark.parametrize("option", OPTIONS)
def test_option_parses_to_the_value_on_the_page(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(option)
    base = ["--config", "configs/magface/ms1mv2_iresnet50_dp.yaml"]
    small = [] if "--method.backbone" in words or "--method.backbone_options" in words else SMALL
    resolved = parse([*base, *small, *words]).resolved
    for key, text in zip(words[::2], words[1::2], strict=True):
        section, name = key.lstrip("-").split(".")
        tree = resolved[section]["init_args"] if section == "method" else resolved[section]
        value = yaml.safe_load(text)
        assert tree[name] == (float(value) if isinstance(tree[name], float) else value), key
