"""IResNet: forms, sizes, activation checkpointing, autocast, compile."""

import copy

import pytest
import torch
from torch import nn

from facex.errors import ConfigError
from facex.models import create_backbone
from facex.models.iresnet import IResNet, architecture_of

TINY = {"width": 0.125, "embedding_size": 16}


def pass_through(net: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(3)  # the same dropout draw
    out = net.train()(x)
    (out * torch.arange(out.numel()).view_as(out)).sum().backward()
    return out.detach(), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", ["magface", "insightface"])
@pytest.mark.parametrize("name", ["iresnet18", "resface_xs"])
def test_checkpointing_changes_nothing(name: str, form: str) -> None:
    torch.manual_seed(0)
    options = {"form": form, "input_size": 48, **TINY} if name.startswith("iresnet") else {}
    plain = create_backbone(name, **options)
    saving = create_backbone(name, activation_checkpointing=True, **options)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, *plain.input_size)
    for _ in range(2):
        out, grads = pass_through(plain, x)
        out2, grads2 = pass_through(saving, x)
        assert torch.equal(out, out2)
        assert grads.keys() == grads2.keys()
        assert all(torch.equal(grads[n], grads2[n]) for n in grads)
        for (key, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
            assert torch.equal(a, b), key
    assert int(saving.bn1.num_batches_tracked) == 2
    assert int(next(b for n, b in saving.named_buffers() if n.endswith("0.bn1.num_batches_tracked"))) == 2
    saving.eval()
    with torch.no_grad():
        assert torch.equal(saving(x), plain.eval()(x))


@pytest.mark.parametrize(("size", "side"), [(112, 7), (96, 6), (64, 4), (48, 3), (32, 2), (50, 4)])
def test_other_input_sizes(size: int, side: int) -> None:
    net = IResNet(18, input_size=size, **TINY)
    assert net.fc.weight.shape == (16, 64 * side * side)
    assert net.eval()(torch.zeros(1, 3, size, size)).shape == (1, 16)
    with pytest.raises(ConfigError, match="set input_size"):
        net(torch.zeros(1, 3, 80, 80))


def test_rectangles_and_too_small() -> None:
    net = IResNet(18, input_size=(64, 48), **TINY)
    assert net.eval()(torch.zeros(2, 3, 64, 48)).shape == (2, 16)
    with pytest.raises(ConfigError, match="too small"):
        IResNet(18, input_size=8)


def test_forms_differ_as_published() -> None:
    magface, insightface = IResNet(18, "magface", **TINY), IResNet(18, "insightface", **TINY)
    assert (magface.bn1.eps, magface.bn1.momentum, magface.features.momentum) == (2e-5, 0.9, 0.9)
    assert (insightface.bn1.eps, insightface.bn1.momentum) == (1e-5, 0.1)
    assert isinstance(magface.dropout, nn.Dropout2d)
    assert magface.dropout.p == 0.4
    assert isinstance(insightface.dropout, nn.Dropout)
    assert insightface.dropout.p == 0
    assert magface.features.weight.requires_grad
    assert not insightface.features.weight.requires_grad
    torch.manual_seed(0)
    full = IResNet(18, "insightface")
    assert full.layer4[0].conv2.weight.std().item() == pytest.approx(0.1, rel=0.01)
    full = IResNet(18, "magface")
    assert full.layer4[0].conv2.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert magface.state_dict().keys() == insightface.state_dict().keys()


def test_channel_dropout_drops_whole_channels() -> None:
    net = IResNet(18, "magface", **TINY).train()
    seen: list[torch.Tensor] = []
    net.dropout.register_forward_hook(lambda m, a, out: seen.append(out))
    net(torch.randn(2, 3, 112, 112))
    zero = (seen[0] == 0).flatten(2)
    assert torch.equal(zero.all(2), zero.any(2))
    assert zero.any()


def test_tail_stays_float32_under_autocast() -> None:
    net = IResNet(18, **TINY).eval()
    dtypes: dict[str, torch.dtype] = {}
    net.fc.register_forward_hook(lambda m, a, out: dtypes.update(fc=out.dtype, fc_in=a[0].dtype))
    net.layer4.register_forward_hook(lambda m, a, out: dtypes.update(layer4=out.dtype))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        out = net(torch.randn(1, 3, 112, 112))
    assert out.dtype == dtypes["fc"] == dtypes["fc_in"] == torch.float32
    assert dtypes["layer4"] == torch.bfloat16


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compile(checkpointing: bool) -> None:
    torch.manual_seed(0)
    net = IResNet(blocks=(1, 2, 1, 1), input_size=32, activation_checkpointing=checkpointing, **TINY)
    other = copy.deepcopy(net)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 32, 32)
    net.dropout, other.dropout = nn.Identity(), nn.Identity()  # the compiled graph draws other random numbers
    expected, got = net.train()(x), compiled.train()(x)
    torch.testing.assert_close(got, expected)
    expected.sum().backward()
    got.sum().backward()
    torch.testing.assert_close(other.conv1.weight.grad, net.conv1.weight.grad, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(other.bn1.running_mean, net.bn1.running_mean)
    assert int(other.layer1[0].bn1.num_batches_tracked) == 1


def test_architecture_is_read_from_names() -> None:
    with torch.device("meta"):
        state = {f"module.{k}": v for k, v in IResNet(100, embedding_size=256).state_dict().items()}
    assert architecture_of(state, "module.") == (100, 256)
    assert architecture_of(state) is None
