"""docs/migrate/arcface_torch.md: every facex command and option on the page parses, and every recipe is named."""

from __future__ import annotations

import re

import pytest

from tests.configs import recipes
from tests.docs.migrating import ROOT, Page, check_command, check_option

PAGE = Page("arcface_torch.md")
SMALL = ["--method.backbone", "resface_xs", "--method.backbone_options", "{}"]
# arcface_torch's config keys, from the spec (F) and its base.py
KEYS = """margin_list network resume save_all_states output embedding_size sample_rate interclass_filtering_threshold fp16
batch_size optimizer lr momentum weight_decay verbose frequent dali dali_aug gradient_acc seed num_workers rec num_classes
num_image num_epoch warmup_epoch val_targets using_wandb wandb_key wandb_entity wandb_project wandb_log_all wandb_resume
suffix_run_name save_artifacts notes"""


def test_the_page_has_what_it_should() -> None:
    assert {r for r in PAGE.recipes() if r != "NAME.yaml"} == set(recipes.recipe_names("arcface")) - {"lfw_small.yaml"}
    keys = set(re.findall(r"`(\w+)", PAGE.text.split("## Config keys")[1].split("## Using")[0]))
    assert set(KEYS.split()) <= keys
    assert len(PAGE.options) >= 35


@pytest.mark.parametrize("command", PAGE.commands)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = check_command(command, SMALL)
    assert config is None or config["schedule"]["kind"] == "polynomial"


@pytest.mark.parametrize("option", PAGE.options)
def test_option_parses_to_the_value_on_the_page(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = "wf4m_r50" if "interclass" in option else "ms1mv3_r50"
    check_option(option, ["--config", f"configs/arcface/{recipe}.yaml"], SMALL)
