"""docs/migrate/jhmfr.md: commands and options parse, recipes exist, defaults in brackets are the official parsers'."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.configs import recipes
from tests.docs.migrating import ROOT, Page, check_command, check_option

PAGE = Page("jhmfr.md")
FACET = "{embed_dim: 16, depth: 2, num_heads: 2, prompt_layers: 2, prompt_tokens: 4}"
SMALL = {
    "ms1mv2_mae_pretrain.yaml": "{embed_dim: 16, depth: 2, num_heads: 2}",
    "ms1mv2_ir100_magface.yaml": recipes.THIN,
}


def test_the_page_has_what_it_should() -> None:
    assert len(PAGE.commands) >= 13
    assert len(PAGE.options) >= 40
    names = {name for name in recipes.recipe_names("jhmfr") if name.startswith(("ms1mv2", "wf42m"))}
    assert PAGE.recipes() == names | {"detector.yaml"}


@pytest.mark.parametrize("command", PAGE.commands)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if "detector.yaml" in command:
        assert check_command(command, []) is not None
        return
    small = next((options for recipe, options in SMALL.items() if recipe in command), FACET)
    config = check_command(command, ["--method.backbone_options", small])
    assert config is None or config["trainer"]["global_batch"] in (512, 1024, 1536)


@pytest.mark.parametrize("option", PAGE.options)
def test_option_parses_to_the_value_on_the_page(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    base = ["--config", "configs/jhmfr/ms1mv2_facet_magface.yaml"]
    if "r100" in option:
        option, base = f"{option} --method.layer_decay 1 --method.backbone_options '{recipes.THIN}'", base
        check_option(option, base, [])
    elif "--method.backbone_options" in option:
        small = "{embed_dim: 16, depth: 2, num_heads: 2, prompt_layers: 2"
        words = re.search(r"\{(.*)\}", option)
        assert words is not None
        added = words[1] if "prompt_layers" not in words[1] else "allow_unused_prompts: true, " + words[1]
        check_option(f"--method.backbone_options '{small}, {added}}}'", base, [])
    else:
        check_option(option, base, ["--method.backbone_options", FACET])


def defaults() -> dict[str, list[str]]:
    """Options of the table with their defaults as written: of the pre-trainer and the trainer, or of both."""
    table = PAGE.text.split("## Options")[1].split("## Using")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `--")]
    found = re.findall(r"`--(\w+)` \(([^)]*)\)", "\n".join(first_cells))
    return {name: value.split("; ") for name, value in found}


def written(value: Any) -> str:
    """An official default as the page writes it."""
    return "empty" if value == "" else "the author's" if str(value).startswith("/") else str(value)


def test_defaults_are_the_official_ones(facex_data: Path) -> None:
    official = json.loads((facex_data / "specs" / "jhmfr_cli_defaults.json").read_text())
    page = defaults()
    for parser, place in (("pretrainer", 0), ("trainer", -1)):
        for option, value in official[parser].items():
            assert page[option][place] == written(value), option
    assert set(page) == set(official["pretrainer"]) | set(official["trainer"])
