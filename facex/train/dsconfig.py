"""The DeepSpeed configuration of one engine, and the refusal of settings that cannot be right."""

from __future__ import annotations

from typing import Any

from facex.errors import ConfigError
from facex.train.config import TrainerConfig

_GONE = {
    "elasticity": "restart on the other number of ranks with --trainer.resume auto",
    "amp": "use --trainer.precision bf16 or fp16",
    "nebula": "checkpoints are atomic folders already",
    "compression_training": "it was removed from DeepSpeed",
    "quantize_training": "it was removed from DeepSpeed",
    "sparse_gradients": "it was removed from DeepSpeed",
    "eigenvalue": "it was removed from DeepSpeed",
    "sparse_attention": "it was removed from DeepSpeed",
    "graph_harvesting": "it was removed from DeepSpeed",
    "curriculum_learning": "it was removed from DeepSpeed",
    "progressive_layer_drop": "it was removed from DeepSpeed",
}
_OURS = {
    "optimizer": "set `optimizer:` and `networks.NAME.optimizer:` in the facex config",
    "scheduler": "set `schedule:` in the facex config",
    "gradient_clipping": "set `trainer.clip:` in the facex config",
    "fp16": "use --trainer.precision fp16: DeepSpeed's fp16 engine casts BatchNorm and cannot share its loss scale with the head",
}
_BATCH = {
    "train_batch_size": "trainer.global_batch",
    "train_micro_batch_size_per_gpu": "trainer.micro_batch",
    "gradient_accumulation_steps": "trainer.global_batch / (micro_batch * ranks)",
}


def engine_config(
    trainer: TrainerConfig, user: dict[str, Any], *, micro: int, window: int, world: int, clip_norm: float
) -> dict[str, Any]:
    """DeepSpeed's configuration of one engine whose window closes after `window` micro-batches."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": window,
        "train_batch_size": micro * window * world,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**40,
        "gradient_clipping": clip_norm,
        "zero_optimization": {
            "stage": trainer.zero,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
        },
    }
    if trainer.precision == "bf16":
        # Without the empty list, ZeRO >= 1 reduces gradients in bf16.
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return _merge(config, check_user_block(trainer, user, config))


def check_user_block(trainer: TrainerConfig, user: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The user's `deepspeed:` block without "auto" values; ConfigError with advice for what cannot be right."""
    kept: dict[str, Any] = {}
    for key, value in user.items():
        if value == "auto":
            continue
        if key in _GONE and _enabled(value):
            raise ConfigError(f"deepspeed.{key} does not exist any more: {_GONE[key]}")
        if key in _OURS and _enabled(value):
            raise ConfigError(f"deepspeed.{key} is not passed through: {_OURS[key]}")
        if key in _BATCH:
            if value != ours[key]:
                raise ConfigError(
                    f"deepspeed.{key}={value} contradicts {_BATCH[key]}, which gives {ours[key]}; leave it out or 'auto'"
                )
            continue
        kept[key] = value
    _check_precision(trainer, kept)
    stage = kept.get("zero_optimization", {}).get("stage", "auto")
    if stage not in ("auto", trainer.zero):
        raise ConfigError(
            f"deepspeed.zero_optimization.stage={stage} contradicts trainer.zero={trainer.zero}; set only that"
        )
    return kept


def _check_precision(trainer: TrainerConfig, user: dict[str, Any]) -> None:
    for key in ("bf16", "bfloat16"):
        if _enabled(user.get(key, {"enabled": False})):
            raise ConfigError(
                f"deepspeed.{key}.enabled casts BatchNorm and PReLU weights to bf16 and cannot train face networks; "
                "use --trainer.precision bf16 (autocast with fp32 weights)"
            )
    autocast = user.get("torch_autocast", {"enabled": False})
    if not _enabled(autocast):
        return
    dtype = str(autocast.get("dtype", "bfloat16")).replace("torch.", "")
    if dtype in ("float16", "fp16", "half"):
        raise ConfigError(
            "deepspeed.torch_autocast with float16 loses overflows (with ZeRO-1 and above the scale never recovers, and at "
            "ZeRO-0 a skipped step counts as applied); use --trainer.precision fp16, whose loss scale the head shares"
        )
    if trainer.precision != "bf16":
        raise ConfigError(f"deepspeed.torch_autocast contradicts trainer.precision={trainer.precision}; set only that")


def _enabled(value: Any) -> bool:
    return bool(value.get("enabled", True)) if isinstance(value, dict) else bool(value)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = _merge(out[key], value)
        elif value != "auto":
            out[key] = value
    return out
