"""configs/jhmfr: every recipe against the spec's table of published recipes, and two real steps with each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from facex.commands.demo import read_plan
from facex.train.parsing import parse
from tests.configs import recipes

ALL = recipes.recipe_names("jhmfr")
MAE = "ms1mv2_mae_pretrain.yaml"
IR100 = "ms1mv2_ir100_magface.yaml"
# file: (margin, classes, peak rate). Written from the spec: --lr per 256 pictures times the global batch.
FACET = {
    "ms1mv2_facet_arcface.yaml": ("arcface", 85742, 1e-3 * 512 / 256),
    "ms1mv2_facet_curricularface.yaml": ("curricularface", 85742, 1e-3 * 512 / 256),
    "ms1mv2_facet_magface.yaml": ("magface", 85742, 1e-3 * 512 / 256),
    "wf42m_facet_magface.yaml": ("magface", 2058932, 7.5e-4 * 512 / 256),
}
OURS = {"demo.yaml", "demo_mae.yaml", "detector.yaml", "lfw_small.yaml", "lfw_small_mae.yaml", "lfw_small_plain.yaml"}
SMALL_FACET = [
    "--method.backbone_options",
    "{embed_dim: 16, depth: 2, num_heads: 2, prompt_layers: 2, prompt_tokens: 4}",
]
SMALL = {
    MAE: [
        *("--method.backbone_options", "{embed_dim: 16, depth: 2, num_heads: 2}"),
        *("--method.decoder_dim", "16", "--method.decoder_depth", "1", "--method.decoder_heads", "2"),
    ],
    IR100: ["--method.backbone_options", recipes.THIN],
    **dict.fromkeys(FACET, SMALL_FACET),
}


def resolved(name: str) -> dict[str, Any]:
    return recipes.resolved("jhmfr", name, *SMALL[name])


def test_every_recipe_is_in_a_table() -> None:
    assert set(ALL) - OURS == {MAE, IR100, *FACET}


def check(config: dict[str, Any], section: str, wanted: dict[str, Any]) -> None:
    got = {key: config[section].get(key) for key in wanted}
    assert got == wanted


def test_pretraining() -> None:
    config = resolved(MAE)
    method = config["method"]["init_args"]
    assert recipes.written("jhmfr", MAE)["method"]["init_args"]["backbone_options"] == {
        "residual": "deepnorm",
        "drop_path_rate": 0.0,
    }
    assert (method["backbone"], method["mask_ratio"]) == ("facet_base", 0.75)
    assert (method["pos_visible"], method["norm_pix"], method["skip_decay"]) == (False, False, False)
    check(config, "optimizer", {"name": "adamw", "lr": 1.5e-4 * 1024 / 256, "betas": [0.9, 0.95], "weight_decay": 0.05})
    check(config, "schedule", {"kind": "cosine", "min_lr": 1e-6, "warmup_epochs": 2, "warmup_inclusive": True})
    check(config, "trainer", {"global_batch": 1024, "epochs": 10, "precision": "fp16", "fp16_growth_interval": 100})
    assert config["trainer"]["clip"] == {"norm": 1.0, "scope": "network"}
    assert config["data"].get("dataset") is None  # masked_faces 0


@pytest.mark.parametrize("name", FACET)
def test_fine_tuning(name: str) -> None:
    margin, classes, rate = FACET[name]
    written = recipes.written("jhmfr", name)["method"]["init_args"]
    assert written["backbone_options"] == {
        **{"residual": "deepnorm", "drop_path_rate": 0.1},
        **{"prompt_layers": 12, "prompt_tokens": 32},
    }
    config = resolved(name)
    method = config["method"]["init_args"]
    assert (method["margin"], method["backbone"], method["embedding_size"]) == (margin, "facet_base", 512)
    assert (method["sample_rate"], method["layer_decay"]) == (0.1, 0.75)
    official = {"foreign_label": "official", "official_regulariser": True, "bias_correction": "first"}
    assert {key: written[key] for key in official} == official
    check(config, "optimizer", {"name": "adamw", "lr": rate, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.05})
    check(config, "schedule", {"kind": "cosine", "min_lr": 1e-5, "warmup_epochs": 1, "warmup_inclusive": True})
    check(config, "trainer", {"global_batch": 512, "epochs": 10, "precision": "fp16", "fp16_growth_interval": 100})
    assert config["trainer"]["clip"] == {"norm": 1.0, "scope": "network"}
    check(config, "data", {"dataset": "MaskedCopies", "dataset_options": {"masked_faces": 0.1}, "num_classes": classes})
    check(config, "evaluation", {"every": 3000, "flip": False, "folds": 5})
    assert [source["path"].split("/")[-1] for source in config["init_from"]] == [f"jhmfr_{name.split('_')[0]}_mae"]


def test_baseline() -> None:
    config = resolved(IR100)
    method = config["method"]["init_args"]
    assert (method["margin"], method["backbone"], method["sample_rate"]) == ("magface", "r100", 0.1)
    assert (method["layer_decay"], config.get("init_from")) == (1.0, [])
    check(config, "optimizer", {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4})
    assert config["optimizer"]["lr"] == pytest.approx(0.025 * 1536 / 256)
    check(config, "schedule", {"kind": "step", "milestones": [8, 12, 16], "gamma": 0.1, "warmup_epochs": 1})
    check(config, "trainer", {"global_batch": 1536, "epochs": 20, "precision": "fp16"})
    assert config["trainer"]["clip"]["norm"] == 0
    check(config, "evaluation", {"every": 3000, "flip": False, "folds": 5})
    check(config, "data", {"dataset": "MaskedCopies", "dataset_options": {"masked_faces": 0.1}, "num_classes": 85742})


def test_the_published_network_has_29_groups() -> None:
    parsed = parse(["--config", str(recipes.CONFIGS / "jhmfr" / "ms1mv2_facet_magface.yaml")])
    groups = parsed.config.method.param_groups("backbone")
    assert len(groups) + 1 == 29  # the head's
    assert sorted({g.lr_scale for g in groups}) == pytest.approx([0.75**k for k in range(13, -1, -1)])


def test_the_arms_differ_in_the_autoencoder_alone() -> None:
    ours, plain = (recipes.written("jhmfr", f"lfw_small{suffix}.yaml") for suffix in ("", "_plain"))
    assert ours.pop("init_from") == [{"path": recipes.written("jhmfr", "lfw_small_mae.yaml")["trainer"]["output"]}]
    assert ours["trainer"].pop("output") != plain["trainer"].pop("output")
    assert ours == plain
    plan = read_plan(recipes.CONFIGS / "jhmfr" / "demo.plan.yaml").stages
    (started, options), (alone, nothing) = ((s.train, s.options) for s in plan if s.folder in ("finetuned", "plain"))
    assert started == alone and nothing == "" and options == "--init_from '[{path: $output/mae}]'"


@pytest.mark.parametrize(("mae", "tuned"), [("demo_mae", "demo"), ("lfw_small_mae", "lfw_small_plain")])
def test_the_encoder_of_a_small_autoencoder_fits(mae: str, tuned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEX_DATA", "data")
    words = (["--config", str(recipes.CONFIGS / "jhmfr" / f"{name}.yaml")] for name in (mae, tuned))
    encoder, network = (next(iter(parse(w).config.method.networks().values())) for w in words)
    shapes = {name: value.shape for name, value in network.state_dict().items() if not name.startswith("prompts")}
    assert {name: value.shape for name, value in encoder.encoder.state_dict().items()} == shapes


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people in `imgs`, and the same pictures as their masked copies."""
    root = tmp_path_factory.mktemp("faces")
    (root / "imgs").mkdir()
    recipes.make_faces(root / "imgs")
    shutil.copytree(root / "imgs", root / "masked")
    return root


@pytest.mark.parametrize("name", sorted(SMALL))
def test_two_steps(name: str, faces: Path, tmp_path: Path) -> None:
    start = [] if name in (MAE, IR100) else ["--init_from", "[]"]
    small = [*SMALL[name], "--method.input.height", "48", "--method.input.width", "48", *start]
    recipes.two_steps("jhmfr", name, faces / "imgs" if name == MAE else faces, tmp_path / "run", *small)


def test_two_steps_of_the_detector(faces: Path, tmp_path: Path) -> None:
    recipes.two_steps("jhmfr", "detector.yaml", faces / "imgs", tmp_path / "run", "--method.flags", "batch")
