"""Converting a run's last checkpoint to another number of ranks: whole tensors from the shards of ZeRO-1 and 2."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facex.errors import CheckpointError
from facex.files import write_text
from facex.train import checkpoint_files as files
from facex.train.checkpoint_folder import (
    ENGINE_TAG,
    UNIVERSAL_TAG,
    Checkpoint,
    open_checkpoint,
    step_name,
)


def reshard_run(run: str | os.PathLike[str], world_size: int, which: str | int = "last") -> Path:
    """Convert a ZeRO-1 or 2 checkpoint so that it can be resumed on `world_size` ranks; returns the new folder, which
    becomes the run's last checkpoint. One process, no launcher. ZeRO-0 and heads need no conversion; ZeRO-3 cannot be
    converted.

    The converted checkpoint holds DeepSpeed's universal form, which in fact loads on any number of ranks. Random
    states of ranks that do not exist any more are left out; the weights, moments and counters are exact.
    """
    if world_size < 1:
        raise CheckpointError(f"--world-size {world_size}: a run needs at least one rank")
    source = open_checkpoint(run, which)
    stage = int(source.meta.get("zero", 0))
    if not stage:
        raise CheckpointError(
            f"{source.path} was written with ZeRO-0: it can be resumed on any number of ranks as it is"
        )
    if stage == 3:
        raise CheckpointError(
            f"{source.path} was written with ZeRO-3, which DeepSpeed resumes on the same number of ranks only "
            f"({source.meta['world_size']}); its weights alone are in method.safetensors"
        )
    if source.meta.get("universal"):
        raise CheckpointError(f"{source.path} has been converted already: it can be resumed on any number of ranks")
    order = source.meta.get("order", "facex")
    if order != "facex":
        raise CheckpointError(
            f"{source.path} was trained with data.order={order}, which gives each rank a list of its own: resume it on "
            f"{source.meta['world_size']} ranks"
        )
    folder = source.path.parent
    final = folder / f"{step_name(int(source.meta['step']))}_world{world_size}"
    temporary = folder / f".{final.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with files.writing(temporary):
            _convert(source, temporary, world_size)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    write_text(folder / "latest", final.name + "\n")
    return final


def _convert(source: Checkpoint, target: Path, world_size: int) -> None:
    target.mkdir()
    for part in source.path.iterdir():
        if part.name in ("meta.json", files.MANIFEST):
            continue
        if part.name.startswith("engine_"):
            _to_universal(part, target / part.name)
        elif part.is_dir():
            shutil.copytree(part, target / part.name)
        else:
            shutil.copy2(part, target / part.name)
    for state in (target / "rank_state").glob("rank_*.pt"):
        if int(state.stem.removeprefix("rank_")) >= world_size:
            state.unlink()
    meta = {**source.meta, "world_size": world_size, "universal": True, "converted_from": source.path.name}
    (target / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    files.write_manifest(target, 0, 1)
    files.flush_to_disk(target)


def _to_universal(engine: Path, target: Path) -> None:
    """Merge the ranks' shards of one engine into whole tensors, in the layout that DeepSpeed loads with
    `load_universal`.

    DeepSpeed's own converter (deepspeed.checkpoint.ds_to_universal) knows Adam's moments only; this one takes
    whatever state tensors the optimizer keeps, SGD's momentum too.
    """
    source, out = engine / ENGINE_TAG, target / UNIVERSAL_TAG
    (out / "zero").mkdir(parents=True)
    model_file = source / "mp_rank_00_model_states.pt"
    model = files.read_pickle(model_file, files.engine_classes())
    rank_files = [source / f"zero_pp_rank_{r}_mp_rank_00_optim_states.pt" for r in range(int(model["dp_world_size"]))]
    shards = [files.read_pickle(path, files.engine_classes())["optimizer_state_dict"] for path in rank_files]
    with files.reading(source):
        for group, shapes in enumerate(model["param_shapes"]):
            for name, shape in shapes.items():
                if name != Path(name).name or name.startswith("."):
                    raise CheckpointError(f"{model_file} names a parameter {name!r}; that is no parameter name")
                (out / "zero" / name).mkdir()
                pieces = _merged(shards, group, name) or {"fp32": model["module"][name].float()}
                for key, value in pieces.items():
                    whole = value if key == "step" else {"param": value.reshape(shape).clone(), "cat_dim": 0}
                    torch.save(whole, out / "zero" / name / f"{key}.pt")
    sharded = ("base_optimizer_state", "param_slice_mappings", "single_partition_of_fp32_groups")
    common = {k: v for k, v in shards[0].items() if k not in sharded}
    common["param_groups"] = shards[0]["base_optimizer_state"]["param_groups"]
    torch.save(common, out / "zero" / "optimizer_state.pt")
    shutil.copy2(model_file, out)


def _merged(shards: list[dict[str, Any]], group: int, name: str) -> dict[str, Any]:
    """The fp32 weight and optimizer states of one parameter, its pieces joined in the order of the ranks, still flat;
    and the optimizer's step, which is no tensor of the parameter's size. Empty for a parameter that the optimizer
    does not hold."""
    pieces: dict[str, list[Tensor]] = {}
    merged: dict[str, Any] = {}
    for shard in shards:
        place = shard["param_slice_mappings"][group].get(name)
        if place is None:
            continue
        flat = {"fp32": shard["single_partition_of_fp32_groups"][group]}
        flat |= shard["base_optimizer_state"]["state"].get(group, {})
        for key, value in flat.items():
            if key == "step":
                merged[key] = value
            elif isinstance(value, Tensor):
                pieces.setdefault(key, []).append(value.narrow(0, place.start, place.numel))
    return merged | {key: torch.cat(parts) for key, parts in pieces.items()}
