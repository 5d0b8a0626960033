"""facex::mask_aggregate_folded against torch.nn's batch norm and PReLU in float64, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facex.ops import extension, mask_aggregate_folded
from tests.ops.mask_grids import DEVICES, DTYPES, ORDERS, close, formulas, inputs

extension()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 9, 9), (3, 700, 2, 1), (4, 6), (0, 3, 2, 2)], ids=str)
def test_folded_is_norm_and_prelu(shape: tuple[int, ...], dtype: torch.dtype, impl: str, device: str) -> None:
    """Against torch.nn's own batch norm and PReLU in float64."""
    torch.manual_seed(5)
    channels = shape[1]
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(channels).eval().double()
    prelu = nn.PReLU(channels).double()
    for tensor in (norm.running_mean, norm.weight, norm.bias, prelu.weight):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    shift = (norm.bias - norm.running_mean * scale).detach()
    for order in ("contiguous", "channels_last", "strided"):
        if order == "channels_last" and len(shape) != 4:
            continue
        y, h, t, extra = (ORDERS[order](x) for x in inputs(shape, dtype, ("tanh", "mul"), "cpu", 4))
        with torch.no_grad():
            a = prelu(norm(h.double()) + t.double())
            truth = formulas(y, a, y, "tanh", "mul", True)[0] + extra.double()
            coefficients = [c.to(device) for c in (scale, shift, prelu.weight)]
            tensors = [x.to(device) for x in (y, h, t)]
            z = mask_aggregate_folded(
                *tensors, *coefficients, activation="tanh", arith="mul", extra=extra.to(device), impl=impl
            )
        close(z.cpu(), truth, dtype)


def test_folded_takes_one_slope_for_all_channels() -> None:
    y, h, t = inputs((2, 3, 4, 4), torch.float32, ("tanh", "add"))
    ones = torch.ones(3)
    one = mask_aggregate_folded(y, h, t, ones, ones, torch.tensor(0.25), activation="tanh", arith="add")
    each = mask_aggregate_folded(y, h, t, ones, ones, torch.full((3,), 0.25), activation="tanh", arith="add")
    assert torch.equal(one, each)


def test_folded_refuses_gradients() -> None:
    y, h, t = inputs((2, 3, 4, 4), torch.float32, ("tanh", "add"))
    ones = torch.ones(3)
    parameter = nn.Parameter(ones)
    with pytest.raises(RuntimeError, match=r"no gradient.*no_grad"):
        mask_aggregate_folded(y, h, t, parameter, ones, ones, activation="tanh", arith="add")
    with torch.no_grad():
        mask_aggregate_folded(y, h, t, parameter, ones, ones, activation="tanh", arith="add")
    z = torch.ops.facex.mask_aggregate_folded(y, h, t, parameter, ones, ones, None, "tanh", "add", True, 0.0)
    with pytest.raises(RuntimeError, match="for inference"):
        z.sum().backward()


def test_bad_coefficients_are_named() -> None:
    y, four = torch.ones(2, 4, 3, 3), torch.ones(4)
    for position, name in enumerate(("scale", "shift", "slope")):
        coefficients = [four, four, four]
        coefficients[position] = torch.ones(3)
        with pytest.raises(ValueError, match=f"{name} has 3 values; y has 4 channels"):
            mask_aggregate_folded(y, y, y, *coefficients, activation="tanh", arith="add")
    with pytest.raises(ValueError, match=r"expected \[B, C"):
        mask_aggregate_folded(four, four, four, four, four, four, activation="tanh", arith="add")
