"""Initialising networks from files: official layouts by `Method.formats()`, facex checkpoints, safetensors. Strict.

Nothing is unpickled without an allow-list: `.pth` and `.pt` files are read with `weights_only=True`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from facex.entrypoints import nearest
from facex.errors import CheckpointError, ConfigError, FacexError, PluginError
from facex.methods.formats import compare, shorten
from facex.methods.spec import Format, LoadReport, Source

if TYPE_CHECKING:
    from facex.methods.method import Method

# Where official training codes put the tensors inside their files.
_CONTAINERS = ("state_dict", "state_dict_backbone", "model", "model_state_dict")


def load_sources(method: Method, sources: Sequence[Source]) -> list[LoadReport]:
    """Initialise the networks of `method` from files, in order.

    Raises:
        CheckpointError: an unreadable file, a layout that the method does not know, or (unless `strict: false`) tensors
            that are missing, left over or of another shape; the message names them.
    """
    return [_load(method, source) for source in sources]


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The flat {name: tensor} mapping of a .safetensors or torch file, its container (`state_dict`, ...) opened.

    A torch file that holds several mappings beside each other gives all of them, `NAME.` before the names of each. Options that a
    trainer saved along (argparse's Namespace) may stand in it; anything else that is no tensor or plain value is refused.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{file}: not a checkpoint that can be read safely (weights_only): {type(error).__name__}: {reason}"
        ) from error
    for name in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a mapping of tensors")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        parts = {str(name): part for name, part in content.items() if isinstance(part, Mapping)}
        state = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{file}: holds no tensors (keys: {shorten(list(map(str, content)))})")
    return state


def build_method(class_path: str, init_args: Mapping[str, Any]) -> Method:
    """A method from its name or class path and the arguments that a config would give it, freshly initialised.

    Raises:
        ConfigError: no such method, or arguments that it does not accept.
        PluginError: the plugin that adds the method or one of its parts fails to import.
    """
    from jsonargparse import ArgumentParser

    from facex.methods.discovery import class_names, import_for_parsing, load_method
    from facex.methods.method import Method as Base

    cls = load_method(class_path)
    import_for_parsing(class_names(init_args))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--method", type=Base)
    spec = {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(init_args)}
    try:
        return parser.instantiate(parser.parse_object({"method": spec})).method
    except FacexError:
        raise
    except Exception as error:
        raise ConfigError(f"method {class_path} does not accept its options: {error}") from error


def recognise_file(state: Mapping[str, Tensor], where: str, name: str | None = None) -> tuple[str, dict[str, Any]]:
    """(class path, constructor arguments) of the method that an official file belongs to.

    Asks the method `name`, or every installed one.
    """
    from facex.methods.discovery import load_method, method_names

    failed = []
    for candidate in [name] if name else method_names():
        try:
            cls = load_method(candidate)
        except PluginError as error:
            if name:
                raise
            failed.append(str(error))
            continue
        arguments = cls.recognise(state)
        if arguments is not None:
            return f"{cls.__module__}.{cls.__qualname__}", arguments
    asked = name or ", ".join(method_names())
    broken = "".join(f"\n  not asked: {line}" for line in failed)
    raise CheckpointError(
        f"{where}: no method ({asked}) recognises this file by its names: {shorten(list(state))}. Say which method and "
        f"backbone it is (--method NAME --method.backbone ...).{broken}"
    )


def method_from_file(path: str | Path, name: str | None = None, arguments: Mapping[str, Any] | None = None) -> Method:
    """The method of an official file with its networks loaded, in evaluation mode.

    `name`: ask this method only; `arguments`: constructor arguments that replace those recognised from the file.
    """
    state = read_state(path)
    if name is not None and arguments is not None and "backbone" in arguments:
        class_path, found = name, dict[str, Any]()
    else:
        class_path, found = recognise_file(state, str(path), name)
    method = build_method(class_path, {**found, **(arguments or {})})
    _load(method, Source(Path(path)))
    return method.eval()


def choose_format(method: Method, state: Mapping[str, Tensor], name: str | None, where: str) -> Format:
    """The format called `name`, or the first that recognises the file."""
    formats = method.formats()
    if name is not None:
        for candidate in formats:
            if candidate.name == name:
                return candidate
        raise CheckpointError(
            f"{where}: {type(method).__name__} has no format {name!r}{nearest(name, [f.name for f in formats])}"
        )
    for candidate in formats:
        if candidate.recognise(dict(state)):
            return candidate
    known = ", ".join(f.name for f in formats) or "none"
    raise CheckpointError(
        f"{where}: not a layout that {type(method).__name__} reads ({known}). Its names: {shorten(list(state))}. "
        f"Another architecture, or another method's file?{_looks_like(state)}"
    )


def load_network(
    module: nn.Module, state: Mapping[str, Tensor], where: str, network: str, strict: bool = True
) -> LoadReport:
    """Copy `state` into `module`; strict: every name, with its shape, on both sides."""
    own = module.state_dict()
    missing, unexpected, shapes = compare(own, state)
    if strict and (missing or unexpected or shapes):
        lines = [f"{where}: does not fit the network {network!r} ({type(module).__name__})"]
        if missing:
            lines.append(f"  missing in the file: {shorten(missing)}")
        if unexpected:
            lines.append(f"  left over in the file: {shorten(unexpected)}")
        lines += [f"  {key}: the file has {got}, the network {want}" for key, want, got in shapes[:4]]
        lines.append(f"  Check the backbone, the embedding size and the input size.{_looks_like(state)}")
        raise CheckpointError("\n".join(lines))
    misfits = {key for key, _, _ in shapes}
    fitting = {key: value for key, value in state.items() if key in own and key not in misfits}
    module.load_state_dict(fitting, strict=False)
    return LoadReport(f"{where} -> {network}", sorted(fitting), sorted({*missing, *misfits}), sorted(unexpected))


def _looks_like(state: Mapping[str, Tensor]) -> str:
    from facex.models import identify_backbone

    found = identify_backbone(state)
    return f" The file looks like {found}." if found else ""


def _load(method: Method, source: Source) -> LoadReport:
    path = Path(source.path)
    where = str(path)
    if path.is_dir():
        networks = _facex_networks(path)
    else:
        state = read_state(path)
        networks = choose_format(method, state, source.format, where).read(dict(state))["networks"]
    if source.network is not None and len(networks) == 1:
        networks = {source.network: next(iter(networks.values()))}  # one network's file, put where the config says
    elif source.network is not None:
        if source.network not in networks:
            raise CheckpointError(f"{where}: holds no network {source.network!r}{nearest(source.network, networks)}")
        networks = {source.network: networks[source.network]}
    total = LoadReport(where)
    for name, tensors in networks.items():
        report = load_network(_module(method, name, where), tensors, where, name, source.strict)
        total.loaded += [f"{name}.{key}" for key in report.loaded]
        total.missing += [f"{name}.{key}" for key in report.missing]
        total.unexpected += [f"{name}.{key}" for key in report.unexpected]
    return total


def _module(method: Method, name: str, where: str) -> nn.Module:
    modules = {**{k: v.module for k, v in method.frozen().items()}, **method.networks()}
    if name not in modules:
        raise CheckpointError(f"{where}: {type(method).__name__} has no network {name!r}{nearest(name, modules)}")
    return modules[name]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {error}") from error


def _facex_networks(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The networks in a facex checkpoint (or the last checkpoint of a run)."""
    checkpoint = folder
    latest = folder / "checkpoints" / "latest"
    if latest.is_file():
        checkpoint = folder / "checkpoints" / latest.read_text(encoding="utf-8").strip()
    file = checkpoint / "method.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{folder}: neither a facex run nor a checkpoint (no {file})")
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _read_safetensors(file).items():
        kind, _, rest = name.partition(".")
        if kind == "networks":
            network, _, key = rest.partition(".")
            networks.setdefault(network, {})[key] = tensor
    return networks
