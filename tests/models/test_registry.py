"""The registry, and one test over every backbone in it."""

import importlib

import pytest
import torch

from facex.errors import ConfigError
from facex.models import backbone_names, create_backbone, describe_backbone, get_backbone, register_backbone

# Small enough to run: everything that the registry holds, at reduced size where the full one is heavy.
SMALL = {"iresnet": {"width": 0.125, "input_size": 32, "embedding_size": 16}, "resface": {"embedding_size": 16}}
# Spec D1: parameters (D = 512) and number of state-dict tensors.
PUBLISHED = {
    18: (24_025_600, 187),
    34: (34_139_328, 331),
    50: (43_590_848, 475),
    100: (65_156_160, 925),
    200: (118_833_920, 1807),
}


def small(name: str, **options: object) -> torch.nn.Module:
    family = get_backbone(name).build.__name__.lower()
    return create_backbone(name, **{**SMALL.get(family, {}), **options})


@pytest.mark.parametrize("name", [n for n in backbone_names() if n != "r2060"])
def test_every_backbone(name: str) -> None:
    torch.manual_seed(0)
    net = small(name)
    x = torch.randn(2, 3, *net.input_size)
    net.train()
    out = net(x)
    assert out.shape == (2, net.embedding_size)
    assert out.dtype == torch.float32
    out.square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), key
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(x)[:1], net(x)[:1])
        torch.testing.assert_close(
            net(x.contiguous(memory_format=torch.channels_last)), net(x), atol=1e-4 * float(net(x).abs().max()), rtol=0
        )
    again = small(name)
    again.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), net(x))


@pytest.mark.parametrize(("depth", "published"), PUBLISHED.items())
@pytest.mark.parametrize("prefix", ["iresnet", "r"])
def test_published_size(depth: int, published: tuple[int, int], prefix: str) -> None:
    with torch.device("meta"):
        net = create_backbone(f"{prefix}{depth}")
    assert (sum(p.numel() for p in net.parameters()), len(net.state_dict())) == published


def test_describe_counts_without_memory() -> None:
    info = describe_backbone("iresnet18")
    assert (info.parameters, info.embedding_size, info.input_size) == (24_025_600, 512, (112, 112))
    assert 5.1e9 < info.flops < 5.4e9  # 2.6 G multiplications and additions are published for this network


def test_small_nets_are_small() -> None:
    assert 0.7e6 < describe_backbone("resface_s").parameters < 1.7e6


def test_unknown_name_and_option_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no backbone 'iresnet5'.*iresnet50"):
        create_backbone("iresnet5")
    with pytest.raises(ConfigError, match=r"no option 'embeding_size'.*embedding_size"):
        create_backbone("iresnet18", embeding_size=4)
    with pytest.raises(ConfigError, match="no depth 51"):
        create_backbone("iresnet50", depth=51)


def test_registered_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="registered twice"):
        register_backbone("iresnet18", "another")(lambda: torch.nn.Identity())
    importlib.import_module("facex.models.iresnet")  # registering the same object again is harmless
