"""Finding methods and what else plugins add; a plugin is imported when it is asked for, never before."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from facex.entrypoints import GROUPS, PluginEntry, entries, find, nearest
from facex.errors import ConfigError, PluginError
from facex.methods.method import Method

# What the core itself offers under short names in configs, written as a plugin would.
CORE_METHODS = {"Recogniser": "facex.classification:Recogniser"}
# Modules whose classes configs may name by their short names (margins, transforms).
CORE_MODULES = (
    "facex.classification",
    "facex.heads.margins",
    "facex.data.transforms",
    "facex.data.affine",
    "facex.data.augment",
    "facex.data.augment_dali",
    "facex.data.occluders.occlude",
    "facex.data.masking.transform",
)
# Entry-point groups whose objects are classes that a config can name.
_CLASS_GROUPS = ("facex.methods", "facex.margins", "facex.datasets", "facex.protocols")


@dataclass
class PluginReport:
    """One line of `facex plugins`: what an entry point adds, and why it fails if it does."""

    entry: PluginEntry
    error: str | None = None


@dataclass
class Plugin:
    """An installed distribution and everything it adds."""

    distribution: str
    version: str
    adds: list[PluginReport] = field(default_factory=list)


def method_names() -> list[str]:
    """Short names that `load_method` accepts, without importing anything."""
    return sorted({*CORE_METHODS, *(e.name for e in entries("facex.methods"))})


def load_method(name: str) -> type[Method]:
    """The Method class of a short name (`MagFace`) or a class path (`facex_magface.MagFace`).

    Raises:
        ConfigError: no such method (the nearest names are given), or the object is no Method.
        PluginError: the plugin that adds it fails to import, or two add it.
    """
    if name in CORE_METHODS:
        found = _load_target(CORE_METHODS[name])
    elif "." in name:
        found = _load_path(name, "method")
    else:
        entry = find("facex.methods", name)
        if entry is None:
            raise ConfigError(
                f"there is no method {name!r}{nearest(name, method_names())} (`facex plugins` lists what is installed)"
            )
        found = entry.load()
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"{name!r} is {found!r}, not a subclass of facex.methods.Method")
    return found


def load_object(group: str, name: str) -> Any:
    """What a plugin adds to `group` under a short name, or the object of a class path.

    Raises ConfigError for a name that nobody adds (the nearest are given), PluginError where the plugin fails to import.
    """
    if "." in name:
        return _load_path(name, GROUPS[group])
    entry = find(group, name)
    if entry is None:
        known = [e.name for e in entries(group)]
        raise ConfigError(f"there is no {GROUPS[group]} {name!r}{nearest(name, known)} (`facex plugins` lists them)")
    return entry.load()


def iter_plugins(check: bool = True, core: Mapping[str, Collection[str]] | None = None) -> Iterator[Plugin]:
    """Every installed plugin with what it adds.

    With `check` each entry is imported and a failure noted beside it. `core`: names by group that the core itself
    has; a plugin's entry of that name is noted as hidden.
    """
    owners: dict[tuple[str, str], set[str]] = {}
    for entry in entries():
        owners.setdefault((entry.group, entry.name), set()).add(entry.distribution)
    plugins: dict[str, Plugin] = {}
    for entry in entries():
        plugin = plugins.setdefault(entry.distribution, Plugin(entry.distribution, entry.version))
        error = None
        others = sorted(owners[entry.group, entry.name] - {entry.distribution})
        if entry.name in (core or {}).get(entry.group, ()):
            error = f"hidden: the core has a {entry.kind} of that name"
        elif others:
            error = f"also added by {', '.join(others)}: asking for it is refused"
        elif check:
            try:
                entry.load()
            except PluginError as failure:
                cause = failure.__cause__
                error = f"{type(cause).__name__}: {cause}"
        plugin.adds.append(PluginReport(entry, error))
    yield from sorted(plugins.values(), key=lambda p: p.distribution.lower())


def import_for_parsing(names: Iterable[str]) -> None:
    """Import the plugins that define the classes of these short names, so that a parser can resolve them.

    jsonargparse knows a short class name only when the module that defines it has been imported. Names that no plugin
    adds are left to the parser (class paths, values of other options).
    """
    for module in CORE_MODULES:
        importlib.import_module(module)
    wanted = set(names)
    known = [e for group in _CLASS_GROUPS for e in entries(group)] if wanted else []
    for group, name in dict.fromkeys((e.group, e.name) for e in known if e.name in wanted):
        entry = find(group, name)
        if entry is not None:
            entry.load()


def names_in(argv: Sequence[str]) -> list[str]:
    """Short class names that a command line may refer to: values of options, class names in its `--config` files."""
    names: list[str] = []
    previous = ""
    for argument in argv:
        option, equals, value = argument.partition("=")
        text = value if equals and option.startswith("--") else argument
        if (option if equals else previous) in ("--config", "-c") and text and not text.startswith("--"):
            names += names_in_config(text)
        elif text.isidentifier():
            names.append(text)
        previous = argument
    return list(dict.fromkeys(names))


def names_in_config(path: str) -> list[str]:
    """Every word of a YAML file that may be a short class name; empty if it cannot be read: parsing says why."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    return list(class_names(content))


def class_names(node: Any) -> Iterator[str]:
    """Every string in nested options that may be a short class name: a class may stand as `{class_path: X}` or as `X`."""
    if isinstance(node, str) and node.isidentifier():
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from class_names(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from class_names(value)


def _load_target(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _load_path(path: str, kind: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ConfigError(f"cannot import the {kind} {path!r}: {type(error).__name__}: {error}") from error


__all__ = [
    "GROUPS",
    "Plugin",
    "PluginReport",
    "class_names",
    "import_for_parsing",
    "iter_plugins",
    "load_method",
    "load_object",
    "method_names",
    "names_in",
    "names_in_config",
]
