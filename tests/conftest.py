"""Shared fixtures. Real faces are read in place below FACEX_DATA and never enter the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["tests.fake_plugins"]


@pytest.fixture(scope="session")
def facex_data() -> Path:
    """The folder FACEX_DATA with `goldens/` and `data/`; tests that need it are skipped by name without it."""
    root = os.environ.get("FACEX_DATA")
    if not root:
        pytest.skip("FACEX_DATA is not set: it names the folder that holds goldens/ and data/ with real faces")
    path = Path(root)
    if not (path / "goldens").is_dir():
        pytest.fail(f"FACEX_DATA={root} has no folder goldens/")
    return path
