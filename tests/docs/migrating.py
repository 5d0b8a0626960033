"""What the tests of every page in docs/migrate share: the facex commands and options quoted on it, and reading them."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from facex.train.parsing import parse

ROOT = Path(__file__).parents[2]
_COMMAND_MODULES = {
    "magface-range": "facex_magface.range_command",
    "jhmfr-eval": "facex_jhmfr.eval_command",
    "jhmfr-flags": "facex_jhmfr.flags_command",
    "jhmfr-pack": "facex_jhmfr.pack_command",
    "jhmfr-pku": "facex_jhmfr.pku_command",
    "jhmfr-report": "facex_jhmfr.conditions_command",
    "mask-faces": "facex_jhmfr.mask_command",
    "sarface-distract": "facex_sarface.distract_command",
    "sarface-report": "facex_sarface.report_command",
    "sarface-tinyface": "facex_sarface.tinyface_command",
    "subset": "facex_lafs.subset_command",
    "lafs-landmarks": "facex_lafs.landmarks_command",
}
_OPTION = re.compile(r"--(method|data|trainer|optimizer|schedule|evaluation|logging|head|deepspeed|init_from)\b\S* ")


class Page:
    """A page, its commands, and its options (each a quoted list of `--key value` pairs)."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / "docs" / "migrate" / name).read_text(encoding="utf-8")
        quoted = re.findall(r"`([^`\n]+)`", self.text)
        commands = [q for q in quoted if (q.startswith("facex ") or "-m facex" in q or "--module facex" in q)]
        self.commands = list(dict.fromkeys(c for c in commands if "NAME" not in c and "..." not in c))
        self.options = list(dict.fromkeys(q for q in quoted if _OPTION.match(q)))

    def recipes(self) -> set[str]:
        """File names of the recipes that the page names."""
        return {Path(r).name for r in re.findall(r"configs/\w+/\w+\.yaml", self.text)}


def check_command(command: str, small: list[str]) -> dict[str, Any] | None:
    """Parse a command; of `facex train` the resolved config, built with the overrides `small`."""
    words = shlex.split(command)
    name, *argv = words[words.index("facex") + 1 :]
    if name == "train":
        return parse([*argv, *small]).resolved
    module = importlib.import_module(_COMMAND_MODULES.get(name, f"facex.commands.{name}"))
    if hasattr(module, "build_parser"):
        assert module.build_parser().parse_args(argv)
    else:  # info
        with pytest.raises(SystemExit, match="0"):
            module.main([*argv, "--help"])
    return None


def check_option(option: str, base: list[str], small: list[str]) -> None:
    """Parse the options beside the config `base`; each must arrive at the value on the page."""
    words = shlex.split(option)
    resolved = parse([*base, *words, *([] if "--method.backbone" in words else small)]).resolved
    for key, text in zip(words[::2], words[1::2], strict=True):
        value, wanted = _find(resolved, key.lstrip("-")), yaml.safe_load(text)
        assert _same(value, wanted), f"{key}: {value!r} is not {wanted!r}"


def _find(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get("init_args", tree) if isinstance(tree, dict) and part not in tree else tree
        tree = tree[part]
    return tree


def _same(value: Any, wanted: Any) -> bool:
    """Whether a resolved value is what was asked for; class names and defaults may have been filled in."""
    if isinstance(value, dict) and "class_path" in value:
        asked = wanted if isinstance(wanted, dict) else {"class_path": wanted}
        name = str(asked["class_path"]).rsplit(".", 1)[-1]
        given = asked.get("init_args", {})
        return value["class_path"].rsplit(".", 1)[-1] == name and all(
            _same(value["init_args"][k], v) for k, v in given.items()
        )
    if isinstance(value, dict) and isinstance(wanted, dict):
        return all(_same(value.get(k), v) for k, v in wanted.items())
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(_same(a, b) for a, b in zip(value, wanted, strict=True))
    if isinstance(value, (bool, str)):
        return str(value).lower() == str(wanted).lower()
    return bool(value == (float(wanted) if isinstance(value, float) else wanted))
