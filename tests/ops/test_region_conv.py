"""A convolution over regions' masks by look-up: against conv2d over the masks, its gradient, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.nn.functional import conv2d, one_hot

from facex.ops import extension, region_conv

extension()
# O K kh kw stride padding H W
SHAPES = [
    (64, 24, 7, 7, 2, 3, 40, 36),
    (5, 7, 3, 2, 1, 1, 13, 11),
    (80, 3, 5, 5, 3, 0, 20, 17),
    (3, 4, 4, 4, 5, 3, 9, 9),
    (2, 3, 7, 7, 2, 6, 3, 3),
    (16, 1, 1, 1, 1, 0, 4, 4),
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, block: int = 6) -> tuple[Tensor, Tensor]:
    """A label map in blocks, so that kernels meet one region and several, and a weight."""
    outputs, count, kernel_h, kernel_w, _, _, height, width = shape
    torch.manual_seed(0)
    coarse = torch.randint(0, count, (2, height // block + 1, width // block + 1), dtype=torch.uint8)
    regions = coarse.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :height, :width].contiguous()
    return regions, torch.randn(outputs, count, kernel_h, kernel_w, dtype=dtype)


def over_masks(regions: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """What it stands for."""
    masks = one_hot(regions.long(), weight.shape[1]).permute(0, 3, 1, 2).to(weight.dtype)
    return conv2d(masks, weight, stride=stride, padding=padding)


@pytest.mark.parametrize("block", [1, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradient_are_the_masks_convolution(shape: tuple[int, ...], dtype: torch.dtype, block: int) -> None:
    regions, weight = inputs(shape, dtype, block)
    weight.requires_grad_()
    results = []
    for found in (
        region_conv(regions, weight, *shape[4:6], impl="fused"),
        region_conv(regions, weight, *shape[4:6], impl="reference"),
        over_masks(regions, weight, *shape[4:6]),
    ):
        upstream = torch.linspace(-1, 1, found.numel(), dtype=dtype).view_as(found)
        results.append((found, *torch.autograd.grad(found, weight, upstream)))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for got in results[:2]:
        for a, b in zip(got, results[2], strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_gradcheck_and_opcheck() -> None:
    regions, weight = inputs((3, 4, 3, 3, 2, 1, 8, 7), block=2)
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: region_conv(regions, w, 2, 1, impl="fused"), weight)
    opcheck(torch.ops.facex.region_conv.default, (regions, weight, 2, 1))
    grad = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    opcheck(torch.ops.facex.region_conv_backward.default, (grad, regions, list(weight.shape), 2, 1))


def test_compiles() -> None:
    regions, weight = inputs((3, 4, 3, 3, 2, 1, 8, 7), torch.float32)
    weight.requires_grad_()

    def loss(w: Tensor) -> Tensor:
        return region_conv(regions, w * 1.0, 2, 1).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(weight), weight)
    torch.testing.assert_close(found, torch.autograd.grad(loss(weight), weight)[0])


def test_16_bit_weights_are_computed_in_float32() -> None:
    regions, weight = inputs(SHAPES[1], torch.float32)
    found = region_conv(regions, weight.bfloat16(), 1, 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, region_conv(regions, weight.bfloat16().float(), 1, 1))


def test_threads_do_not_change_a_bit() -> None:
    regions, weight = inputs(SHAPES[0], torch.float32)
    weight.requires_grad_()
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        found = region_conv(regions, weight, 2, 3)
        results.append((found, *torch.autograd.grad(found.square().sum(), weight)))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_a_region_outside_is_an_error(impl: str) -> None:
    regions, weight = inputs(SHAPES[1])
    regions[1, 2, 3] = 7
    with pytest.raises(ValueError, match="names region 7, but there are 7 regions"):
        region_conv(regions, weight, 1, 1, impl=impl)


@pytest.mark.parametrize(
    ("regions", "weight", "stride", "padding", "message"),
    [
        ((2, 8), (4, 3, 3, 3), 1, 1, r"\[B, H, W\]"),
        ((2, 8, 8), (4, 3, 3), 1, 1, r"\[O, K, kh, kw\]"),
        ((2, 8, 8), (4, 3, 3, 3), 0, 1, "stride is 0"),
        ((2, 2, 8), (4, 3, 5, 3), 1, 1, "does not fit"),
    ],
)
def test_bad_input(regions: tuple[int, ...], weight: tuple[int, ...], stride: int, padding: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        region_conv(torch.zeros(regions, dtype=torch.uint8), torch.rand(weight), stride, padding)


def test_the_operator_itself_refuses_what_would_read_beyond_memory() -> None:
    regions, weight = inputs(SHAPES[1])
    with pytest.raises(RuntimeError, match="another shape than the output"):
        torch.ops.facex.region_conv_backward(torch.rand(2, 5, 9, 9), regions, list(weight.shape), 1, 1)
    with pytest.raises(RuntimeError, match="are wanted"):
        torch.ops.facex.region_conv(regions.long(), weight, 1, 1)
