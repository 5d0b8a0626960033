"""Sizes and names of the published networks, what learns from what, scaled networks, refused options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from facex_msml.fm import FMConfig
from facex_msml.from2021 import FROM
from facex_msml.iresnet_fm import BLOCKS
from facex_msml.lightcnn import luminance
from facex_msml.network import MSMLNet, build_teacher
from facex_msml.osb import OSB
from facex_msml.peer import PeerConfig
from PIL import Image
from torch import nn

from facex.errors import ConfigError
from facex.models import backbone_names, create_backbone, describe_backbone

SMALL: dict[str, Any] = {"width": 0.125, "osb_width": 0.125, "input_size": 32, "embedding_size": 16}
# (parameters of the branch with operators, of the operators, tensors with the classifier), as published
PUBLISHED = {
    "iresnet18": (24.03 + 4.42, 4.42, 585),
    "iresnet34": (34.14 + 4.42, 4.42, None),
    "iresnet50": (43.59 + 4.42, 4.42, 873),
    "lightcnn": (10.48 + 1.24, 1.24, 459),
}


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def small(**options: Any) -> MSMLNet:
    torch.manual_seed(0)
    return MSMLNet(**{**SMALL, **options})


@pytest.mark.parametrize("frb", PUBLISHED)
def test_published_sizes(frb: str) -> None:
    branch, operators, tensors = PUBLISHED[frb]
    with torch.device("meta"):
        net = MSMLNet(frb)  # type: ignore[arg-type]
    assert millions(net.frb) == pytest.approx(branch, abs=0.011)
    assert millions(net.frb.fm_ops) == pytest.approx(operators, abs=0.006)
    assert millions(net.osb) == pytest.approx(11.43, abs=0.005)
    head = 2 if frb == "lightcnn" else 1
    assert tensors is None or len(net.state_dict()) + head == tensors
    outputs = net.eval()(torch.zeros(2, 1 if net.gray else 3, *net.input_size, device="meta"))
    side = net.input_size[0]
    assert outputs["embedding"].shape == (2, 256 if net.gray else 512)
    assert outputs["segmentation"].shape == (2, 2, side, side)
    assert [outputs[f"map{i}"].shape for i in range(4)] == [(2, 18, side >> i, side >> i) for i in range(1, 5)]


def test_published_names_with_a_peer() -> None:
    with torch.device("meta"):
        net, teacher = MSMLNet(peer=PeerConfig(use_decoder=True)), build_teacher()
    assert len(teacher.state_dict()) == 187
    assert len(net.state_dict()) + 187 + 1 == 966
    assert not any("peer" in name for name in net.state_dict())
    names = set(net.state_dict())
    for name in ("frb.decoder.net.18.bias", "frb.fm_ops.0.conv_m.1.running_var", "frb.fm_ops.3.conv2.5.weight"):
        assert name in names


def test_recognition_does_not_reach_the_segmentation_branch() -> None:
    net = small()
    out = net(torch.randn(4, 3, 32, 32))
    out["embedding"].sum().backward()
    assert all(p.grad is None for p in net.osb.parameters())
    assert all(p.grad is not None for n, p in net.frb.named_parameters() if n != "features.weight")
    assert not out["map0"].requires_grad and out["segmentation"].requires_grad
    net.zero_grad()
    net(torch.randn(4, 3, 32, 32), segmentation_only=True)["segmentation"].square().sum().backward()
    assert all(p.grad is not None for p in net.osb.parameters())
    assert all(p.grad is None for p in net.frb.parameters())


def test_a_frozen_or_unused_segmentation_branch_stays_as_it_is() -> None:
    x = torch.randn(4, 3, 32, 32)
    for options in ({"freeze_osb": True}, {"use_osb": False, "fm_layers": (0, 0, 0, 0)}):
        net = small(**options).train()
        before = {k: v.clone() for k, v in net.osb.state_dict().items()}
        out = net(x)
        assert "segmentation" in out if net.use_osb else set(out) == {"embedding"}
        assert all(not v.requires_grad for k, v in out.items() if k != "embedding")
        assert all(torch.equal(v, before[k]) for k, v in net.osb.state_dict().items())
        assert not any(p.requires_grad for p in net.osb.parameters())
        assert net.frb.training and not net.osb.training


def test_the_segmentation_branch_can_be_trained_alone_and_swapped() -> None:
    net, osb = small().eval(), OSB(input_size=32, width=0.125)
    net.osb.load_state_dict(osb.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(x)["segmentation"], osb.eval()(x).final)


def test_the_last_map_is_the_published_pixel_shuffle() -> None:
    osb = OSB(input_size=32, width=0.125).eval()
    seen: list[torch.Tensor] = []
    osb.deconv5.register_forward_hook(lambda module, inputs, output: seen.append(output))
    final = osb(torch.randn(1, 3, 32, 32)).final
    torch.testing.assert_close(nn.functional.avg_pool2d(nn.functional.pixel_shuffle(seen[0], 3), 3, 3), final)


@pytest.mark.parametrize("size", [(48, 64), 32, (80, 16)])
@pytest.mark.parametrize("frb", ["iresnet18", "lightcnn"])
def test_other_sizes(frb: str, size: Any) -> None:
    net = small(frb=frb, input_size=size).eval()
    height, width = net.input_size
    out = net(torch.rand(1, 3, height, width))
    assert out["segmentation"].shape == (1, 2, height, width)
    assert out["map3"].shape == (1, 18, height // 16, width // 16)
    with pytest.raises(ConfigError, match=f"built for {height}x{width}"):
        net(torch.rand(1, 3, height + 16, width))


def test_a_laptops_network_is_small() -> None:
    with torch.device("meta"):
        net = MSMLNet(width=0.25, osb_width=0.25, input_size=64, embedding_size=128)
    assert millions(net) < 3


def test_a_stage_without_operator_passes_its_map() -> None:
    net = small(fm_layers=(1, 0, 1, 0)).eval()
    seen: list[tuple[Any, Any]] = []
    for operator in net.frb.fm_ops:
        operator.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output[0])))
    net(torch.randn(1, 3, 32, 32))
    assert [y is z for y, z in seen] == [False, True, False, True]


@pytest.mark.parametrize("frb", ["iresnet18", "lightcnn"])
def test_the_teachers_distances_train_the_operators(frb: str) -> None:
    options = {key: value for key, value in SMALL.items() if key != "osb_width"}
    net = small(frb=frb, peer=PeerConfig(use_decoder=frb != "lightcnn"))
    teacher = build_teacher(frb, **options).eval()  # type: ignore[arg-type]
    x = torch.rand(3, 3, 32, 32)
    out = net(x, teacher(x).stages, x)
    assert out["kd"].shape == (3,) and bool((out["kd"] > 0).all())
    out["kd"].mean().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.frb.fm_ops[3].conv2.parameters())
    if frb == "iresnet18":
        out = net(x, original=x)
        out["reconstruction"].mean().backward()
        assert all(p.grad is not None for p in net.frb.decoder.parameters())
        assert "kd" not in out
        assert "reconstruction" not in net(x)


def test_grey_is_pillows() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).convert("L"))
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    assert np.array_equal((luminance(x)[0, 0] * 255).round().numpy().astype(np.uint8), expected)
    net = small(frb="lightcnn").eval()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net(x)["embedding"], net(luminance(x))["embedding"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_osb": False}, "needs the segmentation branch: set use_osb"),
        ({"peer": PeerConfig(), "fm_layers": (1, 1, 0, 1)}, "compares all four stages"),
        ({"peer": PeerConfig(use_decoder=True), "frb": "lightcnn"}, "use_decoder needs an iResNet"),
        ({"fm_layers": (1, 1, 1)}, "fm_layers needs four values"),
        ({"fm_layers": (1, 1, 1, 2)}, "each 0 or 1"),
        ({"frb": "iresnet100"}, "frb must be one of iresnet18"),
        ({"frb": "lightcnn", "blocks": (1, 1, 1, 1)}, "fixed depth"),
        ({"blocks": (1, 1, 0, 1)}, "four positive numbers"),
        ({"input_size": 40}, "multiples of 16"),
        ({"frb": "lightcnn", "input_size": 40}, "multiples of 16"),
    ],
)
def test_combinations_that_fail_later_are_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small(**options)


def test_comparison_networks_are_registered() -> None:
    names = backbone_names()
    for depth in BLOCKS:
        assert f"iresnet{depth}_v" in names
    with torch.device("meta"):
        ours, core = create_backbone("iresnet18_v"), create_backbone("r18")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in core.state_dict().items()}
    sphere = describe_backbone("spherenet20")
    assert (sphere.parameters, sphere.input_size) == (22_666_944, (112, 96))
    light = describe_backbone("lightcnn29v2")
    assert light.parameters == pytest.approx(10.48e6, abs=1e4) and light.embedding_size == 256
    small_one = create_backbone("spherenet64", width=0.125, input_size=32, gray=True, embedding_size=8)
    assert small_one(torch.randn(1, 1, 32, 32)).shape == (1, 8)
    with pytest.raises(ConfigError, match="no depth 36"):
        create_backbone("spherenet20", depth=36)


def test_from_returns_the_feature_that_is_asked_for() -> None:
    torch.manual_seed(0)
    net = FROM(8, 32, 5, width=0.125).eval()
    x = torch.randn(2, 3, 32, 32)
    found = net.outputs(x)
    assert found.pattern.shape == (2, 5) and found.mask.shape == (2, 64, 2, 2)
    torch.testing.assert_close(net(x), found.whole)
    net.feature = "masked"
    torch.testing.assert_close(net(x), found.masked)
    with pytest.raises(ConfigError, match="whole or masked"):
        FROM(feature="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiples of 16"):
        FROM(input_size=40)


def test_the_operators_start_as_published() -> None:
    net = small(fm=FMConfig(3, 2))
    for name, parameter in net.frb.fm_ops.named_parameters():
        if parameter.ndim == 4:
            assert float(parameter.detach().std()) == pytest.approx(0.1, abs=0.03), name


@pytest.mark.parametrize("frb", ["iresnet18", "lightcnn"])
def test_under_autocast_the_embedding_stays_float32(frb: str) -> None:
    net = small(frb=frb, peer=PeerConfig(use_decoder=False)).train()
    x = torch.rand(4, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, net.frb(x, net.osb(x).maps).stages)
    assert out["embedding"].dtype == out["kd"].dtype == torch.float32
    (out["embedding"].square().mean() + out["kd"].mean() + out["segmentation"].float().square().mean()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    net = small(frb=frb).eval()
    with torch.no_grad():
        expected = net(x)["embedding"]
        with torch.autocast("cpu", torch.bfloat16):
            found = net(x)["embedding"]
    assert found.dtype == torch.float32
    assert float(nn.functional.cosine_similarity(found, expected).min()) > 0.99
