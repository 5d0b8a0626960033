"""`facex convert`: official checkpoints to facex and back, and a run to another number of ranks.

facex convert magface_epoch_00025.pth runs/magface_r100          official file -> facex run, recognised by its names
facex convert work_dirs/ms1mv3_r50 runs/r50                      checkpoint_gpu_{rank}.pt of all ranks -> facex run
facex convert runs/magface_r100 out.pth --to magface-split-fc    facex run -> official file
facex convert runs/r50 out --to insightface-checkpoint --ranks 8 facex run -> official files of 8 ranks
facex convert runs/big --world-size 4                            optimizer state of ZeRO-1/2 for 4 ranks
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facex.commands.rank_files import LAYOUTS, find_rank_files, read_rank_files, write_rank_files
from facex.errors import CheckpointError, ConfigError
from facex.files import atomic_path
from facex.methods import Format, LoadReport, Method


def main(argv: list[str]) -> int:
    """Convert, and say what was recognised and what went where."""
    options = build_parser().parse_args(argv)
    source = options.input or options.checkpoint
    if source is None:
        raise ConfigError("facex convert needs an input: an official file, or a facex run or checkpoint")
    path = Path(source)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if options.world_size is not None:
        return _reshard(path, options.world_size)
    if options.output is None:
        raise ConfigError("facex convert needs an output: a folder for a facex run, or a file for an official layout")
    if path.is_dir() and find_rank_files(path) is None:
        which = "best" if options.best else "last"
        print(export_run(path, Path(options.output), options.to, which, options.ranks))
    else:
        arguments = _arguments(options.options)
        if options.backbone:
            arguments["backbone"] = options.backbone
        print(
            import_file(
                path, Path(options.output), options.method, arguments, options.format, num_classes=options.num_classes
            )
        )
    return 0


def import_file(
    path: Path,
    output: Path,
    method_name: str | None,
    arguments: Mapping[str, Any],
    format_name: str | None = None,
    num_classes: int | None = None,
) -> str:
    """Official file, or the files of several ranks -> facex run folder with one checkpoint.

    Strict: CheckpointError names what is missing or left over. Returns a few lines about what was done.
    """
    from facex.methods.loading import build_method, choose_format, load_network, recognise_file

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} is there already: name a new folder for the run")
    state = _read(path, num_classes)
    if method_name is not None and "backbone" in arguments:
        class_path, found = method_name, dict[str, Any]()
    else:
        class_path, found = recognise_file(state, str(path), method_name)
    init_args = {**found, **arguments}
    method = build_method(class_path, init_args)
    layout = choose_format(method, state, format_name, str(path))
    content = layout.read(dict(state))
    networks = {**_saved(method), **method.networks()}
    reports: list[LoadReport] = []
    for name, tensors in content["networks"].items():
        reports.append(load_network(networks[name], tensors, str(path), name))
    centres = content.get("head")
    if num_classes is not None and (centres is None or len(centres) != num_classes):
        raise CheckpointError(
            f"{path}: holds {0 if centres is None else len(centres)} class centres, not {num_classes}"
        )
    meta = content.get("meta", {})
    running, bias = meta.get("margin"), meta.get("bias")
    folder = write_run(output, method, class_path, init_args, centres, str(path), running, bias)
    loaded = sum(len(r.loaded) for r in reports)
    with_head = "no class centres" if centres is None else f"class centres {centres.shape[0]} x {centres.shape[1]}"
    i = method.input
    return (
        f"{path}: {layout.name} ({layout.describe}); {type(method).__name__} {init_args.get('backbone', '')}, "
        f"{loaded} tensors, {with_head}\n"
        f"input {i.color} {i.height}x{i.width}, mean {i.mean}, std {i.std}: not in the file, but what this layout is "
        f"published with; give --options if it was trained otherwise\nwritten to {folder}"
    )


def _read(path: Path, num_classes: int | None) -> dict[str, Tensor]:
    """One file's tensors, or those of the files of all ranks under the names of facex.layouts."""
    from facex.methods.loading import read_state

    found = find_rank_files(path)
    return read_state(path) if found is None else read_rank_files(found, num_classes)


def write_run(
    output: Path,
    method: Method,
    class_path: str,
    init_args: Mapping[str, Any],
    centres: Tensor | None,
    origin: str,
    running: Mapping[str, Tensor] | None = None,
    bias: Tensor | None = None,
) -> Path:
    """A run folder whose only checkpoint (step 0) holds `method`, and the class centres [C, D] where there are any.

    `running`: running values of the margin by their own names; `bias` [C]: of a plain softmax.
    """
    from facex.train.checkpoint import CheckpointManager
    from facex.train.method_state import describe_networks, method_state

    meta = {
        "method": {"class_path": class_path, "init_args": dict(init_args)},
        "input": asdict(method.input),
        "networks": describe_networks(method),
        "num_classes": None if centres is None else int(centres.shape[0]),
        "epoch": 0,
        "batches": 0,
        "zero": 0,
        "converted_from": origin,
    }

    head = None if centres is None else _head_with(method, centres, running or {}, origin, bias)

    def save_head(folder: Path) -> None:
        if head is not None:
            head.save(folder)

    return CheckpointManager(output).save(0, meta=meta, method_state=method_state(method), save_head=save_head)


def export_run(path: Path, output: Path, format_name: str | None, which: str = "last", ranks: int | None = None) -> str:
    """Facex run or checkpoint -> official file: .safetensors, or torch's format otherwise; with `ranks`, or where the
    layout has no other form, a folder with the files of so many ranks."""
    from facex.train.load_run import load_run

    run = load_run(path, which)
    formats = run.method.formats()
    layout = _format_named(formats, format_name, type(run.method).__name__)
    centres = read_centres(run.path / "head")
    modules = {**_saved(run.method), **run.method.networks()}
    networks = {name: module.state_dict() for name, module in modules.items()}
    meta = {**run.meta, "margin": read_margin(run.path / "head"), "bias": read_bias(run.path / "head")}
    state = layout.write({"networks": networks, "head": centres, "meta": meta})
    if ranks is not None or layout.name == "insightface-checkpoint":
        if layout.name not in LAYOUTS:
            raise ConfigError(f"{layout.name} has one file: --ranks is for {', '.join(LAYOUTS)}")
        files = write_rank_files(output, layout.name, state, 1 if ranks is None else ranks)
        return f"{run.path}: {len(state)} tensors written to {output} in {len(files)} files ({layout.describe})"
    if output.is_dir():
        raise ConfigError(f"{output} is a folder: the output of an export is a file")
    if layout.name in LAYOUTS:  # the file of the network holds no class centres
        state = {key: value for key, value in state.items() if key.startswith("net.")}
    _write_file(output, layout, state)
    return f"{run.path}: {len(state)} tensors written to {output} as {layout.name} ({layout.describe})"


def _saved(method: Method) -> dict[str, Any]:
    """The frozen networks that are part of a checkpoint."""
    return {name: frozen.module for name, frozen in method.frozen().items() if frozen.saved}


def _nested(state: Mapping[str, Tensor]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in state.items():
        name, _, rest = key.partition(".")
        nested.setdefault(name, {})[rest] = value
    return nested


def _write_file(output: Path, layout: Format, state: Mapping[str, Tensor]) -> None:
    with atomic_path(output) as temporary:
        if output.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({name: value.contiguous().clone() for name, value in state.items()}, temporary)
        else:
            plain = _nested(state) if layout.nested else dict(state)
            torch.save({layout.container: plain} if layout.container else plain, temporary)


def read_centres(folder: Path) -> Tensor | None:
    """The class centres [C, D] from a checkpoint's head shards; None where there are none."""
    return _read_rows(folder, "weight")


def read_bias(folder: Path) -> Tensor | None:
    """The bias [C] of a plain softmax from a checkpoint's head shards; None where there is none."""
    return _read_rows(folder, "bias")


def _read_rows(folder: Path, name: str) -> Tensor | None:
    from safetensors import safe_open

    from facex.heads.state import read_headers

    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    parts = []
    for file in read_headers(folder):
        with safe_open(file.path, "pt") as shard:
            if name not in shard.keys():  # noqa: SIM118 (safe_open is no mapping)
                return None
            parts.append(shard.get_tensor(name).float())  # small heads are trained in float64
    return torch.cat(parts)


def read_margin(folder: Path) -> dict[str, Tensor]:
    """The margin's running values by their own names from a checkpoint's head shards."""
    from safetensors import safe_open

    from facex.heads.state import read_headers

    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    with safe_open(read_headers(folder)[0].path, "pt") as shard:
        names = [key for key in shard.keys() if key.startswith("margin.")]  # noqa: SIM118 (safe_open is no mapping)
        return {key.removeprefix("margin."): shard.get_tensor(key).float() for key in names}


def _head_with(
    method: Method, centres: Tensor, running: Mapping[str, Tensor], origin: str, bias: Tensor | None = None
) -> Any:
    from facex.heads.margin_head import MarginHead
    from facex.train.head import load_bias, load_running_values

    if method.head is None:
        raise CheckpointError(f"the file holds class centres, but {type(method).__name__} has no head")
    if centres.shape[1] != method.head.embedding_size:
        raise CheckpointError(
            f"class centres have {centres.shape[1]} dimensions, the embedding {method.head.embedding_size}"
        )
    spec = method.head
    head = MarginHead(spec.margin, spec.embedding_size, int(centres.shape[0]), bias=spec.bias, normalize=spec.normalize)
    head.load_weight(centres)
    load_bias(head, bias, origin)
    load_running_values(head.margin, running, origin)
    return head


def _format_named(formats: list[Format], name: str | None, method: str) -> Format:
    from facex.entrypoints import nearest

    if not formats:
        raise ConfigError(f"{method} has no official layout to write")
    if name is None:
        return formats[0]
    for candidate in formats:
        if candidate.name == name:
            return candidate
    raise ConfigError(f"{method} writes no layout {name!r}{nearest(name, [f.name for f in formats])}")


def _arguments(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--options {text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"--options {text!r} must be a JSON object of constructor arguments")
    return value


def _reshard(path: Path, world_size: int) -> int:
    from facex.train.reshard import reshard_run

    if world_size < 1:
        raise ConfigError(f"--world-size {world_size}: at least 1")
    print(f"resharded for {world_size} ranks: {reshard_run(path, world_size)}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="facex convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", nargs="?", help="official file, or facex run or checkpoint folder")
    parser.add_argument("output", nargs="?", help="folder of the new run, or official file to write")
    parser.add_argument("--checkpoint", help="the input, as an option")
    parser.add_argument("--method", help="method of an official file, where its names do not tell")
    parser.add_argument("--backbone", help="backbone of an official file, where its names do not tell")
    parser.add_argument("--options", help="further constructor arguments of the method, as JSON")
    parser.add_argument("--format", help="layout of the official file, where several could be meant")
    parser.add_argument("--to", help="layout to write (default: the method's first)")
    parser.add_argument("--num-classes", type=int, help="classes that the file must hold; cuts off CVLface's padding")
    parser.add_argument("--ranks", type=int, help="write the files of so many ranks (insightface-checkpoint, cvlface)")
    parser.add_argument("--best", action="store_true", help="the run's best checkpoint instead of its last")
    parser.add_argument("--world-size", type=int, help="make the run resumable on so many ranks (ZeRO 1 and 2)")
    return parser
