"""docs/migrate/magface.md: every facex command and option on the page parses, and the recipes it names exist."""

from __future__ import annotations

import pytest

from tests.configs import recipes
from tests.docs.migrating import ROOT, Page, check_command, check_option

PAGE = Page("magface.md")
SMALL = ["--method.backbone", "iresnet18", "--method.backbone_options", "{width: 0.125}"]


def test_the_page_has_what_it_should() -> None:
    assert len(PAGE.commands) >= 15
    assert len(PAGE.options) >= 20
    assert PAGE.recipes() == set(recipes.recipe_names("magface")) - {"demo.yaml", "lfw_small.yaml"}


@pytest.mark.parametrize("command", PAGE.commands)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = check_command(command, SMALL)
    assert config is None or config["trainer"]["global_batch"] == 512


@pytest.mark.parametrize("option", PAGE.options)
def test_option_parses_to_the_value_on_the_page(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    small = [] if "--method.backbone_options" in option else SMALL
    check_option(option, ["--config", "configs/magface/ms1mv2_iresnet50_dp.yaml"], small)
