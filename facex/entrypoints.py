"""Which plugins are installed: entry points read from package metadata, nothing imported.

A plugin is any distribution that declares entry points in one of `GROUPS`. Listing them costs a few milliseconds; the
plugin's module is imported only when something it adds is asked for. The variable FACEX_PLUGINS is an allow-list of
distribution or entry-point names separated by commas: unset means every plugin, empty means none.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from facex.errors import PluginError

GROUPS = {
    "facex.methods": "method",
    "facex.margins": "margin",
    "facex.backbones": "backbone",
    "facex.datasets": "dataset",
    "facex.protocols": "protocol",
    "facex.commands": "command",
    "facex.golden_kinds": "golden kinds",
}


@dataclass(frozen=True)
class PluginEntry:
    """One entry point: what a distribution adds under which name. `target` is `module:object`."""

    group: str
    name: str
    target: str
    distribution: str
    version: str

    @property
    def kind(self) -> str:
        """What it adds, in words: method, margin, backbone, ..."""
        return GROUPS.get(self.group, self.group)

    def load(self) -> Any:
        """Import the object; any failure becomes a PluginError that names the distribution and the cause."""
        try:
            return metadata.EntryPoint(self.name, self.target, self.group).load()
        except Exception as error:
            raise PluginError(
                f"{self.kind} {self.name!r} of the plugin {self.distribution} {self.version} ({self.target}) failed to "
                f"import: {type(error).__name__}: {error}. Repair or uninstall it (pip uninstall {self.distribution}), "
                "or leave it out of FACEX_PLUGINS."
            ) from error


def entries(group: str | None = None) -> list[PluginEntry]:
    """The entry points of `group` (None: all groups), sorted by group, name, distribution; nothing is imported."""
    allowed = _allow_list()
    found: dict[tuple[str, str, str], PluginEntry] = {}
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if point.group not in GROUPS or group not in (None, point.group):
                continue
            name = distribution.metadata["Name"] or "unknown"
            entry = PluginEntry(point.group, point.name, point.value, name, distribution.version)
            if allowed is None or _canonical(name) in allowed or _canonical(point.name) in allowed:
                # An editable install and a copy on sys.path show a distribution twice; the first one is imported.
                found.setdefault((point.group, point.name, _canonical(name)), entry)
    return sorted(found.values(), key=lambda e: (e.group, e.name, e.distribution))


def find(group: str, name: str) -> PluginEntry | None:
    """The entry point of that name, None if there is none.

    Raises:
        PluginError: two distributions add the same name; both are named.
    """
    matches = [e for e in entries(group) if e.name == name]
    if len(matches) > 1:
        owners = " and ".join(f"{e.distribution} {e.version}" for e in matches)
        raise PluginError(
            f"{matches[0].kind} {name!r} is added by {owners}: uninstall one of them or name one in FACEX_PLUGINS"
        )
    return matches[0] if matches else None


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'a' or 'b'?"`, or the list of known names when nothing is close."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(n) for n in close) + "?"
    return "; known: " + (", ".join(names) if names else "none")


def _allow_list() -> set[str] | None:
    value = os.environ.get("FACEX_PLUGINS")
    return None if value is None else {_canonical(part) for part in value.split(",") if part.strip()}


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")
