"""magface/checkpoint_keys fails when a prefix or the layout of the class centres is changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from facex_magface import golden_kinds, method

from facex.models import create_backbone


def case() -> Any:
    """The official names, built from the architecture as the spec writes them (A6)."""
    keys = list(create_backbone("iresnet18", width=0.125).state_dict())
    inputs = {
        "dp_keys": [f"module.features.{k}" for k in keys] + ["module.fc.weight"],
        "ddp_keys": [f"features.module.{k}" for k in keys] + ["parallel_fc.weight"],
    }
    params = {
        "architecture": "iresnet18",
        "embedding_size": 512,
        "head_keys": ["module.fc.weight", "parallel_fc.weight"],
    }
    return SimpleNamespace(params=params, inputs=inputs)


def test_names_and_shapes() -> None:
    result = golden_kinds.run_checkpoint_keys(case())
    assert result["inference_keys"][0] == "features.conv1.weight"
    assert list(result["shapes"][:2]) == ["64x3x3x3", "64"]
    assert len(result["inference_keys"]) == 187


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("module.features.", "module.feature.", "magface-dataparallel"),
        ("parallel_fc.weight", "parallel_fc.kernel", "magface-split-fc"),
        ("DC", "CD", "class centres read as"),
    ],
)
def test_a_changed_name_fails(was: str, becomes: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from facex_magface import formats

    original = formats.prefixed_format

    def changed(*arguments: Any, **options: Any) -> Any:
        found = original(*[becomes if a == was else a for a in arguments], **options)
        if was == "DC" and arguments[0] == "magface-dataparallel":
            found.write = original(*arguments, **options).write
        return found

    monkeypatch.setattr(formats, "prefixed_format", changed)
    assert method.magface_formats is formats.magface_formats
    with pytest.raises(AssertionError, match=message):
        golden_kinds.run_checkpoint_keys(case())
