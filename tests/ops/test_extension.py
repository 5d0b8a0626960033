"""What a person reads when the extension is missing or was built for another torch."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from facex.errors import ExtensionError
from facex.ops import extension as loader_function
from facex.ops import extension_available

loader = sys.modules["facex.ops.extension"]


def test_loads() -> None:
    assert extension_available()
    assert loader_function().torch_version == torch.__version__


def test_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(torch_version="1.0.0")
    monkeypatch.setattr(loader.importlib, "import_module", lambda name: fake)
    with pytest.raises(ExtensionError, match=r"built for torch 1\.0\.0.*make build"):
        loader._import()


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "facex._C", None)
    with pytest.raises(ExtensionError, match=r"missing.*make build"):
        loader._import()


def test_undefined_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("undefined symbol: _ZN2at")

    monkeypatch.setattr(loader.importlib, "import_module", fail)
    with pytest.raises(ExtensionError, match=r"undefined symbol.*make build"):
        loader._import()
