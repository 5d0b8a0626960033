"""The golden cases of IResNet pass, and fail when one constant of the product is changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from facex.models import iresnet
from tests.golden import harness

SOURCE = Path(__file__).parents[1] / "golden" / "magface"
EVAL = "backbone_magface_iresnet18_eval"
TRAIN = "backbone_magface_iresnet18_train"
INSIGHTFACE = "backbone_insightface_r18_train"


def outcome(name: str, folder: Path) -> tuple[int, int]:
    """(passed, failed) of one case in a folder of its own."""
    cases = folder / "magface"
    cases.mkdir()
    everything = json.loads((SOURCE / "cases.json").read_text(encoding="utf-8"))
    (cases / "cases.json").write_text(json.dumps({name: everything[name]}), encoding="utf-8")
    (cases / f"{name}.npz").symlink_to(SOURCE / f"{name}.npz")
    passed, failed, _ = harness.run([cases], quiet=True)
    return passed, failed


def form(name: str, **changes: object) -> Callable[[pytest.MonkeyPatch], None]:
    """Change a constant of a published form."""
    return lambda patch: patch.setitem(iresnet.FORMS, name, dataclasses.replace(iresnet.FORMS[name], **changes))


def stride_first(patch: pytest.MonkeyPatch) -> None:
    """Put the stride into the first convolution of a block, as other ResNets do."""
    original = iresnet.IBasicBlock.__init__

    def init(self: iresnet.IBasicBlock, inputs: int, outputs: int, stride: int, eps: float, momentum: float) -> None:
        original(self, inputs, outputs, stride, eps, momentum)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)

    patch.setattr(iresnet.IBasicBlock, "__init__", init)


@pytest.mark.parametrize("name", [EVAL, TRAIN, INSIGHTFACE])
def test_case_passes(name: str, tmp_path: Path) -> None:
    assert outcome(name, tmp_path) == (1, 0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (EVAL, form("magface", bn_eps=1e-3)),
        (EVAL, stride_first),
        (EVAL, lambda patch: patch.setitem(iresnet.DEPTHS, 18, (2, 2, 3, 2))),
        (TRAIN, form("magface", frozen_scale=True)),
        (TRAIN, form("magface", bn_eps=1e-4)),
        (INSIGHTFACE, form("insightface", frozen_scale=False)),
        (INSIGHTFACE, form("insightface", bn_eps=1e-3)),
    ],
)
def test_a_changed_constant_fails(
    name: str, change: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    assert outcome(name, tmp_path) == (0, 1)
