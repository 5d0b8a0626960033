"""The operator against its formulas in float64, its gradients, its options, and mixed precision."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from facex_msml.fm import FMConfig, FMOperator
from facex_msml.peer import PeerConfig, PeerFMOperator
from torch import Tensor, nn

from facex.errors import ConfigError

ARITHS = {
    "add": lambda y, m: y + m,
    "sub": lambda y, m: y - m,
    "mul": lambda y, m: y * m,
    "div": lambda y, m: y / m,
}


def draw(operator: nn.Module, side: int, channels: int = 8) -> tuple[Tensor, Tensor]:
    """Weights that matter in every layer, and float64 maps."""
    torch.manual_seed(0)
    operator.double()
    for parameter in operator.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    y = torch.randn(2, channels, side, side, dtype=torch.float64, requires_grad=True)
    return y, torch.randn(2, 18, side, side, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("activation", "arith", "skip"), list(product(("sigmoid", "tanh"), ARITHS, (True, False))))
def test_the_output_is_the_formula(activation: str, arith: str, skip: bool) -> None:
    operator = FMOperator(8, FMConfig(1, 0, activation, arith, skip))  # type: ignore[arg-type]
    y, o = draw(operator, 5)
    z, distance = operator(y, o)
    a = torch.einsum("oc,bchw->bohw", operator.same_conv.weight[:, :, 0, 0], torch.cat([y, o], 1))
    mask = 1 / (1 + torch.exp(-a)) if activation == "sigmoid" else (1 - 2 / (1 + torch.exp(2 * a)))
    expected = ARITHS[arith](y, mask) + (y if skip else 0)
    assert distance is None
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-9)
    found_mask, purified = operator.float().explain(y.float(), o.float())
    torch.testing.assert_close(found_mask, mask.float())
    torch.testing.assert_close(purified, ARITHS[arith](y, mask).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("side", [2, 4])  # below and above the size from which the maps are convolved apart
def test_gradients(kernel: int, side: int) -> None:
    operator = FMOperator(8, FMConfig(kernel, 1, "tanh", "mul"))
    y, o = draw(operator, side)
    assert torch.autograd.gradcheck(lambda *maps: operator.eval()(*maps)[0], (y, o), fast_mode=True)


def test_joining_and_convolving_apart_are_equal() -> None:
    operator = FMOperator(8, FMConfig(3, 0))
    y, o = draw(operator, 6)
    expected = nn.functional.conv2d(torch.cat([y, o], 1), operator.same_conv.weight, padding=1)
    torch.testing.assert_close(operator.preactivation(y, o), expected)
    small_y, small_o = y[:, :, :2, :2], o[:, :, :2, :2]
    expected = nn.functional.conv2d(torch.cat([small_y, small_o], 1), operator.same_conv.weight, padding=1)
    torch.testing.assert_close(operator.preactivation(small_y, small_o), expected)


def test_division_kept_away_from_zero() -> None:
    operator = FMOperator(8, FMConfig(1, 0, "tanh", "div", div_eps=0.25))
    y, o = draw(operator, 3)
    with torch.no_grad():
        operator.same_conv.weight.mul_(1e-6)
        ratio = operator(y, o)[0] / y - 1
    torch.testing.assert_close(ratio.abs(), torch.full_like(ratio, 4.0))


@pytest.mark.parametrize("use_conv", [True, False])
@pytest.mark.parametrize("mask_trans", ["conv", "invert"])
def test_the_teachers_terms(use_conv: bool, mask_trans: str) -> None:
    operator = PeerFMOperator(8, FMConfig(1, 0), PeerConfig(use_conv, mask_trans)).eval()  # type: ignore[arg-type]
    y, o = draw(operator, 3)
    teacher = torch.randn_like(y, requires_grad=True)
    z, distance = operator(y, o, teacher)
    assert distance is not None
    mask = torch.sigmoid(operator.preactivation(y, o))
    weight = 1 - mask if operator.conv_m is None else operator.conv_m(mask)
    own, theirs = operator.conv1(weight * y), operator.conv2(weight * teacher)
    torch.testing.assert_close(z, y * mask + own + y)
    torch.testing.assert_close(distance, (theirs - own).square().mean((1, 2, 3)).float())
    names = {name.split(".")[0] for name in operator.state_dict()}
    assert names == {"same_conv"} | ({"conv1", "conv2"} if use_conv else set()) | (
        {"conv_m"} if mask_trans == "conv" else set()
    )
    assert operator(y, o)[1] is None
    assert torch.equal(operator(y, o)[0], z)  # the face's own term stays without a teacher
    distance.sum().backward()
    assert teacher.grad is not None and y.grad is not None


def test_the_arithmetic_is_float32_under_autocast() -> None:
    operator = FMOperator(8, FMConfig(1, 0, "sigmoid", "div"))
    y, o = (t.detach().float() for t in draw(operator, 3))
    operator.float()
    with torch.no_grad():
        operator.same_conv.weight.fill_(-3)
        o.fill_(1), y.fill_(1)  # a = -78: the mask is 1e-34, which float16 cannot hold
        a = operator.preactivation(y, o)
        with torch.autocast("cpu", torch.bfloat16):
            z = operator(y, o)[0]
    assert torch.isfinite(z).all()
    torch.testing.assert_close(z.double(), 1 + torch.exp(-a.double()) + 1, rtol=0.02, atol=0)


@pytest.mark.parametrize("mask_trans", ["conv", "invert"])
def test_the_teachers_terms_are_float32_under_autocast(mask_trans: str) -> None:
    """A weight of 1 - m = 2 ** -10, which bfloat16 rounds to 0, still reaches the output and the distance."""
    operator = PeerFMOperator(8, FMConfig(1, 0), PeerConfig(False, mask_trans)).eval()  # type: ignore[arg-type]
    y, o = (t.detach().float() for t in draw(operator, 3))
    operator.float()
    with torch.no_grad():
        operator.same_conv.weight.fill_(6.9375 / 26)  # a = 6.9375
        o.fill_(1), y.fill_(1)
        if operator.conv_m is not None:
            conv = operator.conv_m[0]
            conv.weight.zero_(), conv.bias.fill_(1), operator.conv_m[1].reset_parameters()
            conv.weight[range(8), range(8), 1, 1] = -1
        with torch.autocast("cpu", torch.bfloat16):
            a = operator.preactivation(y, o)
            z, distance = operator(y.bfloat16(), o, torch.full_like(y, 1024).bfloat16())
    kept = torch.sigmoid(-a.float())
    assert distance is not None and kept.min() > 0 and kept.max() < 2e-3
    torch.testing.assert_close(z, torch.full_like(z, 2))
    torch.testing.assert_close(distance, (1023 * kept).square().mean((1, 2, 3)), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel_size": 5}, "kernel_size must be one of 1, 3"),
        ({"resblocks": 3}, "resblocks must be one of 0, 1, 2"),
        ({"activation": "relu"}, "activation must be one of sigmoid, tanh"),
        ({"arith": "pow"}, "arith must be one of add, sub, mul, div"),
        ({"div_eps": 1e-3}, "div_eps is for arith div"),
        ({"arith": "div", "div_eps": -1.0}, "must not be negative"),
    ],
)
def test_other_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FMConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_trans": "none"}, "mask_trans must be conv or invert"),
        ({"kd_weight": -1.0}, "kd_weight must not be negative"),
        ({"decoder_weight": 1.0}, "use_decoder is off"),
    ],
)
def test_other_peers_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PeerConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("blocks", [1, 2])
def test_folding_for_inference_changes_nothing(blocks: int) -> None:
    operator = FMOperator(8, FMConfig(3, blocks, "sigmoid", "mul"))
    y, o = draw(operator, 4)
    operator.train()(y, o)  # running statistics of their own
    operator.eval()
    expected = operator(y, o)[0]
    with torch.no_grad():
        torch.testing.assert_close(operator(y, o)[0], expected)
