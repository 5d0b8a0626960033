"""The golden cases of every architecture pass, and fail when one constant of the product is changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facex.models import common, ir, iresnet, mobilefacenet, vit
from tests.golden import harness

SOURCE = Path(__file__).parents[1] / "golden" / "magface"
EVAL = "backbone_magface_iresnet18_eval"
TRAIN = "backbone_magface_iresnet18_train"
INSIGHTFACE = "backbone_insightface_r18_train"
ADAFACE = "backbone_adaface_ir18_eval"
MOBILE = "backbone_insightface_mbf_eval"
VIT = "backbone_insightface_vit_t_eval"
VIT_TRAIN = "backbone_insightface_vit_t_train"
Change = Callable[[pytest.MonkeyPatch], None]


def outcome(name: str, folder: Path) -> tuple[int, int]:
    """(passed, failed) of one case in a folder of its own."""
    cases = folder / "magface"
    cases.mkdir()
    everything = json.loads((SOURCE / "cases.json").read_text(encoding="utf-8"))
    (cases / "cases.json").write_text(json.dumps({name: everything[name]}), encoding="utf-8")
    (cases / f"{name}.npz").symlink_to(SOURCE / f"{name}.npz")
    passed, failed, _ = harness.run([cases], quiet=True)
    return passed, failed


def form(name: str, **changes: object) -> Change:
    """Change a constant of a published form."""
    return lambda patch: patch.setitem(iresnet.FORMS, name, dataclasses.replace(iresnet.FORMS[name], **changes))


def attribute(owner: object, name: str, value: object) -> Change:
    """Another value for a constant or function of a module or class."""
    return lambda patch: patch.setattr(owner, name, value)


def stride_first(patch: pytest.MonkeyPatch) -> None:
    """Put the stride into the first convolution of a block, as other ResNets do."""
    original = iresnet.IBasicBlock.__init__

    def init(self: iresnet.IBasicBlock, inputs: int, outputs: int, stride: int, eps: float, momentum: float) -> None:
        original(self, inputs, outputs, stride, eps, momentum)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)

    patch.setattr(iresnet.IBasicBlock, "__init__", init)


def average_shortcut(module: ir.Subsample, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, module.stride, ceil_mode=True)


def never_residual(module: mobilefacenet.DepthWise, x: Tensor) -> Tensor:
    return module.layers(x)


def gelu_mlp(module: vit.Mlp, x: Tensor) -> Tensor:
    return module.fc2(F.gelu(module.fc1(x)))


def unscaled(module: vit.Block, branch: Tensor, keep: Tensor | None, row: int) -> Tensor:
    return branch if keep is None else branch * keep[row].view(-1, 1, 1)


def other_ratio(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vit.VisionTransformer, "kept_tokens", property(lambda net: int(net.tokens * 0.95)))


@pytest.mark.parametrize("name", [EVAL, TRAIN, INSIGHTFACE, ADAFACE, MOBILE, VIT, VIT_TRAIN])
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
        (ADAFACE, attribute(ir.Subsample, "forward", average_shortcut)),
        (ADAFACE, attribute(ir.IR, "unit_and_norm", lambda net, x: (net(x), net(x).norm(dim=1, keepdim=True)))),
        (MOBILE, attribute(mobilefacenet.DepthWise, "forward", never_residual)),
        (MOBILE, attribute(mobilefacenet, "scaled", lambda c, w: common.scaled(c, w) // (2 if c == 512 else 1))),
        (VIT, attribute(vit.Mlp, "forward", gelu_mlp)),
        (VIT, attribute(vit, "FEATURE_EPS", 1e-3)),
        (VIT_TRAIN, attribute(vit.Block, "_dropped", unscaled)),
        (VIT_TRAIN, other_ratio),
        (VIT_TRAIN, attribute(torch.Tensor, "argsort", lambda t, dim: torch.argsort(t, dim=dim, descending=True))),
    ],
)
def test_a_changed_constant_fails(name: str, change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch)
    assert outcome(name, tmp_path) == (0, 1)
