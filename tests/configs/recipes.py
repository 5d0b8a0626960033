"""What the tests of every recipe folder share: reading a recipe, a handful of faces, and two real steps cut down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from facex.train.parsing import parse

CONFIGS = Path(__file__).parents[2] / "configs"
THIN = "{width: 0.125, blocks: [1, 1, 1, 1]}"
_TINY = {
    "mbf": THIN,
    "vit": "{embed_dim: 32, depth: 2, num_heads: 2, mask_ratio: 0.05, official_masking: true}",
    "ir_": THIN,
    "r": THIN,
    "iresnet": THIN,
}


def recipe_names(folder: str) -> list[str]:
    """File names of a recipe folder, without the plan of its demo."""
    return sorted(p.name for p in (CONFIGS / folder).glob("*.yaml") if not p.name.endswith(".plan.yaml"))


def written(folder: str, name: str) -> dict[str, Any]:
    """A recipe as it is written."""
    return yaml.safe_load((CONFIGS / folder / name).read_text(encoding="utf-8"))


def resolved(folder: str, name: str, *overrides: str) -> dict[str, Any]:
    """A recipe with every default filled in; the method is built, so give it a small network."""
    return parse(["--config", str(CONFIGS / folder / name), *overrides]).resolved


def tiny(backbone: str) -> str:
    """Options that make a backbone small, of the same kind."""
    matching = [prefix for prefix in _TINY if backbone.startswith(prefix)]
    return _TINY[max(matching, key=len)]


def make_faces(root: Path, people: int = 4, pictures: int = 4) -> Path:
    """Noise in the shape of a face set: a folder per person."""
    rng = np.random.default_rng(0)
    for person in range(people):
        (root / f"p{person}").mkdir()
        for i in range(pictures):
            picture = rng.integers(0, 256, (112, 112, 3), np.uint8)
            cv2.imwrite(str(root / f"p{person}" / f"{i}.jpg"), picture)
    return root


def two_steps(folder: str, name: str, faces: Path, output: Path, *overrides: str) -> None:
    """Train two steps on `faces` with micro-batches of 2, four classes and `overrides`; every loss must be finite."""
    from facex.train.trainer import train

    words = ["--data.path", str(faces), "--data.num_classes", "4", "--trainer.output", str(output)]
    words += ["--trainer.global_batch", "4", "--trainer.micro_batch", "2", "--trainer.epochs", "null"]
    words += ["--trainer.steps", "2", "--trainer.sync_bn", "false", "--evaluation.bins", "[]"]
    parsed = parse(["--config", str(CONFIGS / folder / name), *words, *overrides])
    result = train(parsed.config, parsed.resolved)
    assert result.steps == 2
    assert result.losses
    assert all(np.isfinite(v) for v in result.losses.values())


def small_network(folder: str, name: str) -> list[str]:
    """Overrides that keep the kind of network and read smaller pictures."""
    backbone = written(folder, name)["method"]["init_args"]["backbone"]
    return [
        *("--method.backbone_options", tiny(backbone)),
        *("--method.input.height", "48", "--method.input.width", "48"),
    ]
