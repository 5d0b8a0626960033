"""Plugins: listed without import, imported when asked for, broken ones contained, duplicates named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from facex import entrypoints
from facex.classification import Recogniser
from facex.errors import ConfigError, PluginError
from facex.methods.discovery import import_for_parsing, iter_plugins, load_method, method_names, names_in
from facex.models import create_backbone

Install = Callable[..., None]
METHOD = """
from facex.methods import Method
class Mine(Method):
    "Mine."
"""


def test_a_method_is_found_by_name_and_by_path(install: Install) -> None:
    install("facex-mine", {"facex.methods": {"Mine": "mine_ok:Mine"}}, {"mine_ok.py": METHOD})
    assert "Mine" in method_names()
    assert "mine_ok" not in sys.modules
    assert load_method("Mine") is load_method("mine_ok.Mine")
    assert load_method("Recogniser") is Recogniser
    assert load_method("facex.classification.Recogniser") is Recogniser


def test_unknown_names_say_the_nearest(install: Install) -> None:
    install("facex-mine", {"facex.methods": {"Mine": "mine_near:Mine"}}, {"mine_near.py": METHOD})
    with pytest.raises(ConfigError, match=r"no method 'Recognizer'.*'Recogniser'"):
        load_method("Recognizer")
    with pytest.raises(ConfigError, match=r"cannot import the method 'no\.such\.Thing'"):
        load_method("no.such.Thing")
    with pytest.raises(ConfigError, match="not a subclass"):
        load_method("pathlib.Path")


def test_a_broken_plugin_is_shown_and_breaks_nothing(install: Install) -> None:
    install(
        "facex-broken",
        {"facex.methods": {"Broken": "broken_one:Broken"}, "facex.backbones": {"broken_net": "broken_one:net"}},
        {"broken_one.py": "raise RuntimeError('boom')"},
    )
    install("facex-mine", {"facex.methods": {"Mine": "mine_fine:Mine"}}, {"mine_fine.py": METHOD})
    plugins = {p.distribution: p for p in iter_plugins()}
    assert [a.error for a in plugins["facex-mine"].adds] == [None]
    assert all("RuntimeError: boom" in (a.error or "") for a in plugins["facex-broken"].adds)
    assert load_method("Mine").__name__ == "Mine"
    create_backbone("resface_xs")
    with pytest.raises(
        PluginError, match=r"'Broken' of the plugin facex-broken 1.0 .*boom.*pip uninstall facex-broken"
    ):
        load_method("Broken")
    with pytest.raises(PluginError, match="broken_net"):
        create_backbone("broken_net")


def test_duplicates_name_both_owners(install: Install) -> None:
    install("facex-a", {"facex.methods": {"Twice": "twice_a:Mine"}}, {"twice_a.py": METHOD})
    install("facex-b", {"facex.methods": {"Twice": "twice_b:Mine"}}, {"twice_b.py": METHOD})
    with pytest.raises(PluginError, match=r"facex-a 1\.0 and facex-b 1\.0"):
        load_method("Twice")
    errors = [a.error for p in iter_plugins() for a in p.adds if a.entry.name == "Twice"]
    assert errors == [
        "also added by facex-b: asking for it is refused",
        "also added by facex-a: asking for it is refused",
    ]


def test_allow_list(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("facex-a", {"facex.methods": {"OneA": "one_a:Mine"}})
    install("facex-b", {"facex.methods": {"OneB": "one_b:Mine"}})
    monkeypatch.setenv("FACEX_PLUGINS", "facex_A")
    assert [e.name for e in entrypoints.entries("facex.methods")] == ["OneA"]
    monkeypatch.setenv("FACEX_PLUGINS", "OneB")
    assert [e.name for e in entrypoints.entries("facex.methods")] == ["OneB"]
    monkeypatch.setenv("FACEX_PLUGINS", "")
    assert entrypoints.entries() == []


def test_a_backbone_of_a_plugin(install: Install) -> None:
    source = """
from torch import nn
def tiny_net(embedding_size: int = 4, input_size=32):
    "A tiny net."
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, embedding_size))
    net.embedding_size, net.input_size = embedding_size, (32, 32)
    return net
"""
    install("facex-net", {"facex.backbones": {"tiny_net": "net_plugin:tiny_net"}}, {"net_plugin.py": source})
    assert create_backbone("tiny_net", embedding_size=7).embedding_size == 7
    with pytest.raises(ConfigError, match="no option 'size'"):
        create_backbone("tiny_net", size=3)


def test_names_for_the_parser(tmp_path: Path, install: Install) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "method:\n  class_path: FromFile\n  init_args: {margin: {class_path: Inner}}\ndata: {transforms: [Short]}\n"
    )
    argv = ["--config", str(config), "--method", "FromArgv", "--method.margin=Other", "--trainer.epochs", "3"]
    assert names_in(argv) == ["FromFile", "Inner", "Short", "FromArgv", "Other"]
    assert names_in(["--config=" + str(tmp_path / "none.yaml")]) == []
    install("facex-mine", {"facex.methods": {"FromFile": "from_file:Mine"}}, {"from_file.py": METHOD})
    assert "from_file" not in sys.modules
    import_for_parsing(names_in(argv))
    assert "from_file" in sys.modules
