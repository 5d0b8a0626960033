"""The demo's and the small recipes: their stages fit each other, and the demo plants what its page says."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from facex.commands.demo import read_plan
from facex.train.parsing import parse
from tests.configs import recipes

ARMS = [("demo_pretrain", "demo"), ("lfw_small_pretrain", "lfw_small")]
SHARED = ("margin", "backbone", "embedding_size", "backbone_options", "input", "parsing")


def arguments(name: str) -> dict[str, Any]:
    return recipes.written("sarface", f"{name}.yaml")["method"]["init_args"]


@pytest.mark.parametrize(("first", "second"), ARMS)
def test_the_second_stage_goes_on_with_the_networks_of_the_first(first: str, second: str) -> None:
    one, two = arguments(first), arguments(second)
    assert {key: one[key] for key in SHARED} == {key: two[key] for key in SHARED}
    written, parser = recipes.written("sarface", f"{second}.yaml"), arguments("demo_parser")
    assert two["parser"] == parser
    sources = {source.get("network", "recogniser"): source["path"] for source in written["init_from"]}
    outputs = {name: recipes.written("sarface", f"{name}.yaml")["trainer"]["output"] for name in (first, "demo_parser")}
    assert sources == {"recogniser": outputs[first], "parser": outputs["demo_parser"]}
    assert written["data"]["path"] == recipes.written("sarface", f"{first}.yaml")["data"]["path"]


@pytest.mark.parametrize("name", ["demo_parser", "demo_pretrain", "demo", "lfw_small_pretrain", "lfw_small"])
def test_recipes_parse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEX_DATA", "data")
    config = parse(["--config", str(recipes.CONFIGS / "sarface" / f"{name}.yaml")]).config
    assert config.trainer.output.startswith("runs/")


def test_textures_are_hints_in_the_first_stage_and_mislead_in_the_second() -> None:
    shares = {}
    for name in ("demo_pretrain", "demo"):
        transforms = recipes.written("sarface", f"{name}.yaml")["data"]["transforms"]
        assert transforms[-1]["class_path"] == "facex_sarface.textures.PaintTextures"
        shares[name] = transforms[-1]["init_args"]
    assert shares["demo_pretrain"] == {"p": 0.8, "own": 0.7} and shares["demo"] == {"p": 0.8, "own": 0}


def test_the_plan_hands_on_what_was_made() -> None:
    stages = read_plan(recipes.CONFIGS / "sarface" / "demo.plan.yaml").stages
    trained = {stage.folder: stage for stage in stages if stage.train is not None}
    assert list(trained) == ["parser", "pretrained", "policy"]
    commands = [shlex.split(stage.run)[0] for stage in stages if stage.train is None]
    assert commands == ["sarface-regions", "sarface-distract", "sarface-report"]
    faces = next(stage.run for stage in stages if "sarface-regions" in stage.run).split()[1]
    assert all(f"--data.path {faces}" in trained[name].options for name in ("pretrained", "policy"))
    assert all(f"$output/{name}" in trained["policy"].options for name in ("parser", "pretrained"))
