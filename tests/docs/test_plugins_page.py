"""docs/plugins.md, followed literally: its files are written, its commands run, in an empty folder."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from facex.entrypoints import GROUPS
from tests.docs.blocks import blocks, commands

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"
Run = Callable[[str], str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugin_page")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Run a line of the page; `pip install` goes into a folder of its own, `facex` is this checkout's."""
    site = folder / "site"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)

    def call(line: str) -> str:
        words = shlex.split(line)
        if words[:2] == ["pip", "install"]:
            offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--upgrade", "--target", str(site)]
            words = [sys.executable, "-m", "pip", "install", *offline, *words[2:]]
        elif words[0] == "facex":
            words = [sys.executable, "-m", "facex", *words[1:]]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return call


def test_the_page_literally(folder: Path, run: Run) -> None:
    outputs: dict[str, str] = {}
    for block in blocks(PAGE):
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        for line in commands(block):
            outputs[line] = run(line)
    listing = outputs["facex plugins"]
    assert "facex-ringloss 0.1.0" in listing
    assert "ERROR" not in listing[listing.index("facex-ringloss") :].split("\n\n")[0].split("\nfacex-")[0]
    help_text = outputs["facex train --method RingLoss --help"]
    assert "--method.radius" in help_text or "--radius" in help_text
    assert "length that the embeddings are pulled to" in help_text.lower()
    assert (folder / "runs" / "ring" / "checkpoints" / "latest").is_file()
    # the margin at the end of the page, added as the text says
    project = folder / "facex-ringloss" / "pyproject.toml"
    points = '[project.entry-points."facex.margins"]\nCubic = "facex_ringloss.margin:Cubic"\n'
    project.write_text(project.read_text(encoding="utf-8") + "\n" + points, encoding="utf-8")
    run("pip install ./facex-ringloss")
    listed = json.loads(run("facex plugins --json"))["plugins"]
    mine = next(p for p in listed if p["distribution"] == "facex-ringloss")
    assert [(a["kind"], a["name"], a["error"]) for a in mine["adds"]] == [
        ("margin", "Cubic", None),
        ("method", "RingLoss", None),
    ]
    run("facex train --config ring.yaml --method.margin Cubic --trainer.output runs/cubic --trainer.steps 2")


def test_the_page_names_every_group() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{group}`" in text for group in GROUPS)
