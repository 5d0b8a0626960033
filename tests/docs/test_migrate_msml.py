"""docs/migrate/msml.md: every facex command and option on the page parses, and every recipe is named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.configs import recipes
from tests.docs import migrating
from tests.docs.migrating import ROOT, Page, check_command, check_option

PAGE = Page("msml.md")
SMALL = ["--method.backbone_options", "{width: 0.125, osb_width: 0.125}"]
OURS = {"demo.yaml", "demo_plain.yaml", "lfw_small.yaml", "lfw_small_plain.yaml"}
# config.yaml's keys and the options of train.py and test.py, from the spec (8)
OFFICIAL = """dataset fp16 batch_size frb_type osb_type use_osb fm_layers fm_params peer_params header_type header_params exp_id
output_prefix lambda1"""
SCRIPTS = """local_rank resume occ network loss dataset weight_folder fill_type vis pre_trained no-occ"""
BATCHES = {"ires50_msml_3": 320, "arc18_msml_peer_dec_1": 1024}


@pytest.fixture(autouse=True)
def plugin_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"msml-recipe": "facex_msml.recipe_command", "msml-folder": "facex_msml.folder_command"}
    monkeypatch.setattr(migrating, "_COMMAND_MODULES", modules)
    monkeypatch.chdir(ROOT)


def test_the_page_has_what_it_should() -> None:
    assert PAGE.recipes() == set(recipes.recipe_names("msml")) - OURS
    assert set(OFFICIAL.split()) <= set(re.findall(r"`(\w+)`", PAGE.text))
    assert set(SCRIPTS.split()) <= set(re.findall(r"--([\w-]+)", PAGE.text))
    assert len(PAGE.commands) >= 22
    assert len(PAGE.options) >= 25


@pytest.mark.parametrize("command", [c for c in PAGE.commands if "recipe.yaml" not in shlex.split(c)[-1]])
def test_command_parses(command: str) -> None:
    config = check_command(command, SMALL)
    if config is not None:
        recipe = Path(re.findall(r"configs/msml/\w+", command)[0]).name
        assert config["trainer"]["global_batch"] == BATCHES.get(recipe, 512)


@pytest.mark.parametrize("option", PAGE.options)
def test_option_parses_to_the_value_on_the_page(option: str) -> None:
    check_option(option, ["--config", "configs/msml/ms1m_iresnet18.yaml"], SMALL)
