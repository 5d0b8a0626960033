"""docs/migrate/sarface.md: every facex command and option on the page parses, and every recipe is named."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.configs import recipes
from tests.docs.migrating import ROOT, Page, check_command, check_option

PAGE = Page("sarface.md")
PARSER = "{widths: [8, 16, 16, 16], depths: [1, 1, 1, 1]}"
SMALL = ["--method.backbone_options", recipes.THIN, "--method.parser.options", PARSER]
# config.py's options, from the spec (8)
OFFICIAL = """data_root train_data_path val_data_path use_mxrecord train_data_subset swap_color_channel prefix gpus
distributed_backend use_16bit epochs seed batch_size lr lr_milestones lr_gamma num_workers fast_dev_run evaluate
resume_from_checkpoint start_from_model_statedict use_wandb custom_num_class arch momentum weight_decay head m h s t_alpha
low_res_augmentation_prob crop_augmentation_prob photometric_augmentation_prob accumulate_grad_batches test_run
save_all_models"""


def test_the_page_has_what_it_should() -> None:
    ours = {name for name in recipes.recipe_names("sarface") if name.startswith(("demo", "lfw"))}
    assert PAGE.recipes() == set(recipes.recipe_names("sarface")) - ours
    options = set(re.findall(r"`--(\w+)`", PAGE.text.split("## Options")[1].split("## What is fixed")[0]))
    assert set(OFFICIAL.split()) <= options
    assert len(PAGE.commands) >= 8
    assert len(PAGE.options) >= 50


@pytest.mark.parametrize("command", PAGE.commands)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = check_command(command, SMALL)
    assert config is None or config["trainer"]["global_batch"] == 128


def groups() -> list[str]:
    """The page's options in few command lines: no two of one line are about the same thing."""
    lines: list[list[str]] = []
    for option in PAGE.options:
        keys = shlex.split(option)[::2]
        alone = "--method.backbone" in keys  # then the network is the real one
        fitting = (line for line in lines if not alone and not any(_clash(k, o) for k in keys for o in _keys(line)))
        line = next(fitting, None)
        if line is None:
            lines.append([option])
        else:
            line.append(option)
    return [" ".join(line) for line in lines]


def _keys(line: list[str]) -> list[str]:
    return [key for option in line for key in shlex.split(option)[::2]]


def _clash(one: str, other: str) -> bool:
    return (
        one == other
        or f"{one}.".startswith(f"{other}.")
        or f"{other}.".startswith(f"{one}.")
        or "--method.backbone" in (one, other)
    )


@pytest.mark.parametrize("options", groups())
def test_options_parse_to_the_values_on_the_page(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check_option(options, ["--config", "configs/sarface/official_cosface.yaml"], SMALL)
