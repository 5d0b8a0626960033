"""The official config.yaml: derived settings, learning rates, the recipe that is written from it, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from facex_msml import recipe_command
from facex_msml.recipe_files import training_config
from facex_msml.recipes import OfficialConfig, derive, official_config, read_config, settings

from facex import cli
from facex.errors import ConfigError
from facex.train.parsing import parse_object

CONFIGS = Path(__file__).parents[3] / "configs" / "msml"
MS1M = {"dataset": "ms1m-retinaface-t2", "frb_type": "iresnet18", "header_type": "AMArcFace"}
ARC18: dict[str, Any] = {**MS1M, "header_params": [64.0, 0.48, 0.0, 0.0], "fm_params": [3, 2, "sigmoid", "mul"]}


def config(**changes: Any) -> OfficialConfig:
    return official_config({**ARC18, **changes})


@pytest.mark.parametrize(
    ("dataset", "frb", "head", "epochs", "lr", "osb"),
    [
        ("ms1m-retinaface-t2", "lightcnn", "Softmax", 25, 0.1, 0.01),
        ("ms1m-retinaface-t2", "iresnet50", "AMCosFace", 25, 0.1, 0.01),
        ("webface", "iresnet50", "AMCosFace", 40, 0.01, 0.01),
        ("webface", "iresnet50", "AMArcFace", 34, 0.1, 0.01),
        ("webface", "iresnet34", "AMCosFace", 34, 0.1, 0.01),
        ("webface", "not_used", "Softmax", 34, 0.1, 0.01),
        ("webface", "lightcnn", "AMCosFace", 35, 0.008, 0.01),
    ],
)
def test_every_row_of_the_table(dataset: str, frb: str, head: str, epochs: int, lr: float, osb: float) -> None:
    recipe = derive(config(dataset=dataset, frb_type=frb, header_type=head))
    assert (recipe.num_epoch, recipe.lr, recipe.parts["osb"]) == (epochs, lr, osb)
    assert recipe.pretrained == ("fm_ops" in recipe.parts)


def test_settings_of_a_grey_network() -> None:
    found = settings(config(frb_type="lightcnn", header_type="Softmax"))
    assert (found["is_gray"], found["out_size"], found["use_norm"], found["dim_feature"]) == (
        True,
        (128, 128),
        False,
        256,
    )


def test_the_recipe_is_the_one_in_the_folder() -> None:
    written = training_config(config(), gpus=4)
    kept = yaml.safe_load((CONFIGS / "ms1m_iresnet18.yaml").read_text())
    written["trainer"]["output"] = kept["trainer"]["output"]
    assert written == kept
    assert training_config(config(), gpus=1)["optimizer"]["lr"] == pytest.approx(0.025)


def test_going_on_at_an_epoch() -> None:
    """Rates from epoch 13 on are those of the whole recipe; the weights and the classifier are the official file's."""
    whole, rest = training_config(config()), training_config(config(), resume=13)
    assert rest["trainer"]["epochs"] == 12
    assert rest["optimizer"]["lr"] == pytest.approx(0.1 * whole["optimizer"]["lr"])
    assert rest["schedule"]["milestones"] == [3, 8]
    assert rest["init_from"] == [{"path": "out/msml_1/backbone.pth", "head": True}]
    recipe = derive(config())
    for epoch in range(12):
        factor = rest["schedule"]["gamma"] ** sum(m <= epoch for m in rest["schedule"]["milestones"])
        assert rest["optimizer"]["lr"] * factor == pytest.approx(0.1 * recipe.lr_factor(13 + epoch))
    for wrong in (25, -1):
        with pytest.raises(ConfigError, match="epochs 0 to 24"):
            training_config(config(), resume=wrong)


def test_adaptive_margins_peers_and_runs_without_occluders() -> None:
    made = training_config(
        config(header_type="AMCosFace", header_params=[32.0, 0.3, 1.2, 0.1], peer_params={"use_ori": True})
    )
    init = made["method"]["init_args"]
    assert init["margin"] == {"class_path": "AMCosFace", "init_args": {"s": 32, "m": 0.3, "a": 1.2, "k": 0.1}}
    assert init["peer"] == {"use_conv": False, "mask_trans": "conv", "use_decoder": False, "kd_weight": 1.0}
    assert made["data"]["transforms"][0]["class_path"] == "facex_msml.preparation.KeepOriginal"
    bare = training_config(config(use_osb=False, fm_layers=[0] * 4, fp16=False), occlude=False)
    assert bare["data"]["transforms"] == [{"class_path": "HorizontalFlip"}]
    assert (bare["method"]["init_args"]["light"], bare["trainer"]["precision"]) == (False, "fp32")
    assert "lr_scales" not in bare["method"]["init_args"]


def test_the_command_writes_a_recipe_that_parses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({**ARC18, "batch_size": 32, "peer_params": {"use_ori": False}})
    )
    arguments = [
        "msml-recipe",
        str(tmp_path / "config.yaml"),
        str(tmp_path / "new.yaml"),
        "--gpus",
        "2",
        "--resume",
        "5",
    ]
    assert cli.main(arguments) == 0
    assert "deepspeed --num_gpus 2 --module facex train" in capsys.readouterr().out
    content = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert content["init_from"] == [{"path": str(tmp_path / "backbone.pth"), "head": True}]
    content["method"]["init_args"]["backbone_options"] = {"width": 0.125, "osb_width": 0.125, "blocks": [1] * 4}
    resolved = parse_object(content).resolved
    assert (resolved["trainer"]["global_batch"], resolved["trainer"]["epochs"]) == (64, 20)
    with pytest.raises(ConfigError, match="is there already"):
        recipe_command.main(arguments[1:])


def test_the_command_says_that_a_peer_needs_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**ARC18, "peer_params": {"use_ori": True}}))
    start = ["msml-recipe", str(tmp_path / "config.yaml")]
    says = "add {path: iresnet18.pth, network: peer} to init_from"
    assert cli.main([*start, str(tmp_path / "a.yaml")]) == 0
    assert says in capsys.readouterr().out
    assert cli.main([*start, str(tmp_path / "b.yaml"), "--resume", "5"]) == 0  # no backbone.pth
    assert says in capsys.readouterr().out
    torch.save({"frb.fc.weight": torch.zeros(1)}, tmp_path / "backbone.pth")
    assert cli.main([*start, str(tmp_path / "c.yaml"), "--resume", "5"]) == 0
    assert says in capsys.readouterr().out
    torch.save({"frb.peer.fc.weight": torch.zeros(1)}, tmp_path / "backbone.pth")
    assert cli.main([*start, str(tmp_path / "d.yaml"), "--resume", "5"]) == 0
    assert says not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": "glint360k"}, "dataset is one of ms1m-retinaface-t2, webface"),
        ({"frb_type": "iresnet100"}, "frb_type is one of iresnet18"),
        ({"header_type": "ArcFace"}, "header_type is one of"),
        ({"osb_type": "fcn"}, "osb_type is one of unet"),
        ({"fm_layers": [1, 1]}, "fm_layers needs 4 values"),
        ({"fm_params": "sigmoid"}, "fm_params is a list"),
        ({"batch_size": 0}, "at least 1"),
        ({"peer_params": {"use_orig": True}}, "peer_params has use_ori"),
        ({"fm_layer": [1, 1, 1, 1]}, "unknown key 'fm_layer'.*fm_layers"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**ARC18, **changes}))
    with pytest.raises(ConfigError, match=says) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match="can be read"):
        read_config(path)
    path.write_text("dataset: [")
    with pytest.raises(ConfigError, match="can be read"):
        read_config(path)
    path.write_text("- 1")
    with pytest.raises(ConfigError, match="not a mapping"):
        read_config(path)
    path.write_text("dataset: webface")
    with pytest.raises(ConfigError, match="frb_type is missing"):
        read_config(path)
    with pytest.raises(ConfigError, match="no network"):
        training_config(config(dataset="webface", frb_type="not_used"))
    with pytest.raises(ConfigError, match="at least one is needed"):
        training_config(config(), gpus=0)
