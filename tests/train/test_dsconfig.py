"""DeepSpeed settings: what is filled in, passed through, and refused with advice."""

from __future__ import annotations

from typing import Any

import pytest

from facex.errors import ConfigError
from facex.train.config import TrainerConfig
from facex.train.dsconfig import engine_config


def config(user: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    return engine_config(TrainerConfig(**trainer), user, micro=8, window=4, world=2, clip_norm=0.0)


def test_batch_sizes_follow_from_the_plan() -> None:
    made = config({}, precision="fp32", zero=2)
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (8, 4)
    assert made["train_batch_size"] == 64
    assert made["zero_optimization"]["stage"] == 2
    assert "torch_autocast" not in made


def test_bf16_never_reduces_gradients_in_bf16() -> None:
    assert config({})["torch_autocast"]["lower_precision_safe_modules"] == []


def test_auto_is_filled_in_and_the_rest_is_passed_through() -> None:
    user = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": 8,
        "zero_optimization": {"stage": "auto", "reduce_bucket_size": 5},
        "wall_clock_breakdown": True,
        "fp16": {"enabled": False},
    }
    made = config(user, zero=1)
    assert made["train_batch_size"] == 64
    assert made["zero_optimization"]["stage"] == 1
    assert made["zero_optimization"]["reduce_bucket_size"] == 5
    assert made["wall_clock_breakdown"]


@pytest.mark.parametrize(
    ("user", "advice"),
    [
        ({"elasticity": {"enabled": True}}, "resume"),
        ({"amp": {"enabled": True}}, "precision"),
        ({"fp16": {"enabled": True}}, "precision fp16"),
        ({"bf16": {"enabled": True}}, "BatchNorm"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "precision fp16"),
        ({"optimizer": {"type": "Adam"}}, "optimizer:"),
        ({"gradient_clipping": 1.0}, "trainer.clip"),
        ({"train_batch_size": 128}, "trainer.global_batch"),
        ({"zero_optimization": {"stage": 3}}, "trainer.zero"),
    ],
)
def test_what_cannot_be_right_is_refused_with_advice(user: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        config(user, zero=1)
