"""docs/migrate/lafs.md: every facex command and option on the page parses, and the recipes it names exist."""

from __future__ import annotations

import re

import pytest

from tests.configs import recipes
from tests.docs.migrating import ROOT, Page, check_command, check_option

PAGE = Page("lafs.md")
TINY = "dim: 16, depth: 1, heads: 1, head_dim: 8, mlp_dim: 16"
SMALL = {
    "LAFS": ["--method.backbone_options", f"{{{TINY}, landmark_width: 0.25}}"],
    "LAFSPretrain": ["--method.backbone_options", f"{{{TINY}}}", "--method.landmarks.width", "0.25"],
}
BASE = {"LAFS": "finetune_webface4m.yaml", "LAFSPretrain": "pretrain_webface4m_1shot.yaml"}


def method_of(words: str) -> str:
    """The method that a command trains."""
    return "LAFSPretrain" if "pretrain_" in words else "LAFS"


def options_of(section: str) -> list[str]:
    """The options quoted in a section."""
    text = re.split(r"^## ", PAGE.text, flags=re.M)
    (found,) = [part for part in text if part.startswith(section)]
    return [option for option in PAGE.options if f"`{option}`" in found]


OPTIONS = [("LAFSPretrain", o) for o in options_of("Pre-training")] + [("LAFS", o) for o in options_of("Fine-tuning")]


def test_the_page_has_what_it_should() -> None:
    assert len(PAGE.commands) >= 28
    assert len(OPTIONS) >= 40
    assert {option for _, option in OPTIONS} == set(PAGE.options)
    ours = {name for name in recipes.recipe_names("lafs") if name.startswith(("demo", "lfw"))}
    assert PAGE.recipes() == set(recipes.recipe_names("lafs")) - ours


@pytest.mark.parametrize("command", PAGE.commands)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = check_command(command, SMALL[method_of(command)])
    assert config is None or config["trainer"]["epochs"] in (34, 41)


@pytest.mark.parametrize(("method", "option"), OPTIONS)
def test_option_parses_to_the_value_on_the_page(method: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    small = [*SMALL[method], "--method.head.out_dim", "16"] if method == "LAFSPretrain" else SMALL[method]
    if "--method.head.out_dim" in option:
        small = SMALL[method]
    base = ["--config", f"configs/lafs/{BASE[method]}"]
    if "--method.backbone " in option:  # the network stays small
        base += small
    check_option(option, base, small)
