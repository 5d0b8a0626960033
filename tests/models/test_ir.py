"""AdaFace's networks and MobileFaceNet: what is particular to them."""

import pytest
import torch
from torch import nn

from facex.models import create_backbone
from facex.models.ir import IR, IRBlock, SqueezeExcite, Subsample
from facex.models.mobilefacenet import MobileFaceNet

TINY = {"width": 0.125, "embedding_size": 16, "input_size": 32, "blocks": (1, 1, 1, 1)}


def test_the_official_pair() -> None:
    net = IR(18, **TINY).eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        unit, norm = net.unit_and_norm(x)
        raw = net(x)
    assert norm.shape == (3, 1)
    torch.testing.assert_close(norm[:, 0], raw.norm(dim=1))
    torch.testing.assert_close(unit * norm, raw)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_subsampling_is_max_pooling_of_one_pixel(stride: int, size: int) -> None:
    x = torch.randn(2, 3, size, size)
    assert torch.equal(Subsample(stride)(x), nn.MaxPool2d(1, stride)(x))


def test_blocks_as_published() -> None:
    names = list(IRBlock(64, 64, 2, False, False).state_dict())
    assert not any("shortcut" in name for name in names)
    assert {"shortcut_layer.0.weight", "shortcut_layer.1.running_var"} <= set(
        IRBlock(64, 128, 2, False, False).state_dict()
    )
    bottleneck = IRBlock(256, 256, 2, True, True)
    shapes = {k: tuple(v.shape) for k, v in bottleneck.state_dict().items() if v.ndim == 4}
    assert shapes == {
        "res_layer.1.weight": (64, 256, 1, 1),
        "res_layer.4.weight": (64, 64, 3, 3),
        "res_layer.7.weight": (256, 64, 1, 1),
        "res_layer.se_block.fc1.weight": (16, 256, 1, 1),
        "res_layer.se_block.fc2.weight": (256, 16, 1, 1),
    }
    assert bottleneck.res_layer[7].stride == (2, 2)


def test_squeeze_excite_by_hand() -> None:
    module = SqueezeExcite(32)
    x = torch.randn(2, 32, 5, 5)
    hidden = torch.relu(x.mean((2, 3)) @ module.fc1.weight[:, :, 0, 0].T)
    factor = torch.sigmoid(hidden @ module.fc2.weight[:, :, 0, 0].T)
    torch.testing.assert_close(module(x), x * factor[:, :, None, None])


def test_state_dict_order_and_last_batchnorm() -> None:
    with torch.device("meta"):
        names = list(create_backbone("ir_se_50").state_dict())
    order = list(dict.fromkeys(name.split(".")[0] for name in names))
    assert order == ["input_layer", "output_layer", "body"]
    assert [n for n in names if n.startswith("output_layer.4")] == [
        *("output_layer.4.running_mean", "output_layer.4.running_var", "output_layer.4.num_batches_tracked")
    ]


def test_options_reach_the_layers() -> None:
    net = IR(18, bn_eps=1e-3, bn_momentum=0.5, dropout=0.2, **TINY)
    assert {(m.eps, m.momentum) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-3, 0.5)}
    assert net.output_layer[1].p == 0.2
    assert IR(18, **TINY).output_layer[1].p == 0.4


def test_mobilefacenet_as_published() -> None:
    with torch.device("meta"):
        net, large = MobileFaceNet(), create_backbone("mbf_large")
    assert tuple(net.layers[1].layers[0].weight.shape) == (128, 2, 3, 3)  # 64 groups, not depthwise
    assert tuple(net.features.layers[0].layers[0].weight.shape) == (512, 1, 7, 7)
    assert "layers.3.layers.0.layers.1.layers.2.weight" in net.state_dict()
    assert tuple(large.state_dict()["layers.1.layers.1.layers.0.layers.0.weight"].shape) == (128, 256, 1, 1)
    assert not any(m.residual for m in (net.layers[2], net.layers[4], net.layers[6]))
    assert all(m.residual for m in net.layers[5].layers)


def test_other_sizes() -> None:
    assert IR(18, **{**TINY, "input_size": 224}).output_layer[3].in_features == 64 * 14 * 14
    net = MobileFaceNet(width=0.125, input_size=(64, 48), embedding_size=8).eval()
    assert net(torch.zeros(1, 3, 64, 48)).shape == (1, 8)
