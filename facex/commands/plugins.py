"""`facex plugins`: what is installed, from which distribution, what it adds, and what fails to import and why."""

from __future__ import annotations

import argparse
import json
from typing import Any

from facex.cli import COMMANDS
from facex.methods.discovery import CORE_METHODS, Plugin, iter_plugins


def main(argv: list[str]) -> int:
    """Print the table (or JSON). A broken plugin is shown with its error; the exit code stays 0."""
    parser = argparse.ArgumentParser(prog="facex plugins", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-import", action="store_true", help="only list; do not try to import them")
    options = parser.parse_args(argv)
    plugins = list(iter_plugins(not options.no_import, core_names()))
    if options.json:
        print(json.dumps({"plugins": [_as_json(p) for p in plugins]}, indent=2))
    elif not plugins:
        print("no plugins are installed (pip install ./plugins/magface adds MagFace)")
    else:
        print("\n".join(_as_text(plugins)))
    return 0


def core_names() -> dict[str, list[str]]:
    """Names that the core has in the groups where its own come first."""
    from facex.models.registry import core_backbones

    return {"facex.commands": [*COMMANDS], "facex.methods": [*CORE_METHODS], "facex.backbones": core_backbones()}


def _as_json(plugin: Plugin) -> dict[str, Any]:
    return {
        "distribution": plugin.distribution,
        "version": plugin.version,
        "adds": [
            {"kind": a.entry.kind, "name": a.entry.name, "target": a.entry.target, "error": a.error}
            for a in plugin.adds
        ],
    }


def _as_text(plugins: list[Plugin]) -> list[str]:
    lines = []
    for plugin in plugins:
        lines.append(f"{plugin.distribution} {plugin.version}")
        for added in plugin.adds:
            lines.append(f"  {added.entry.kind:<12}  {added.entry.name:<16}  {added.entry.target}")
            if added.error:
                lines.append(f"      ERROR  {added.error}")
    return lines
