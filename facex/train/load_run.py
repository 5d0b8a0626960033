"""From a run's checkpoint back to a method with its weights, for evaluation, extraction and export (no DeepSpeed
needed)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facex.errors import CheckpointError, ConfigError, PluginError
from facex.methods.loading import build_method
from facex.methods.method import Method
from facex.train.checkpoint_folder import Checkpoint, open_checkpoint
from facex.train.method_state import load_method_state


@dataclass
class LoadedRun:
    """A method in eval mode with the weights of a checkpoint, on the CPU; `meta` is the checkpoint's meta.json."""

    method: Method
    meta: dict[str, Any]
    path: Path


def load_run(
    path: str | os.PathLike[str], which: str | int = "last", options: Mapping[str, Any] | None = None
) -> LoadedRun:
    """Build the method that a checkpoint describes and load its weights strictly.

    `path` is a run folder (then `which` is last, best, or a step) or a checkpoint folder; `options`: constructor arguments
    in place of the run's own (how faces are embedded). CheckpointError names the file that is missing or damaged, or says how the
    architectures differ.
    """
    checkpoint = open_checkpoint(path, which)
    method = method_of(checkpoint, options)
    where = str(checkpoint.path / "method.safetensors")
    load_method_state(method, checkpoint.method_state(), where, checkpoint.describe())
    method.train(False)
    return LoadedRun(method, checkpoint.meta, checkpoint.path)


def method_of(checkpoint: Checkpoint, options: Mapping[str, Any] | None = None) -> Method:
    """The method of `meta.json` (`{"class_path": ..., "init_args": {...}}`), freshly initialised; `options` win over its
    arguments."""
    where = checkpoint.path / "meta.json"
    spec = checkpoint.meta.get("method")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("class_path"), str):
        raise CheckpointError(f"{where} does not say which method it is (no method.class_path)")
    try:
        return build_method(spec["class_path"], {**(spec.get("init_args") or {}), **(options or {})})
    except (ConfigError, PluginError) as error:
        if options and isinstance(error, ConfigError):
            raise ConfigError(f"{where}: with the options {dict(options)}: {error}") from error
        raise CheckpointError(
            f"{where}: its method cannot be loaded; is the plugin installed, in a version that fits? {error}"
        ) from error
