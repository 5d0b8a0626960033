"""Blacking out regions: the compiled operator against plain arithmetic, its gradients, areas, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from facex.ops import extension, region_mask

extension()
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(2, 3, 9, 11, 5), (1, 1, 1, 1, 1), (3, 2, 70, 65, 256), (2, 4, 64, 64, 24)]  # B C H W K


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, a label map in blocks (as faces have them), and factors of which some are 0 and some 1."""
    batch, channels, height, width, count = shape
    torch.manual_seed(0)
    coarse = torch.randint(0, count, (batch, height // 4 + 1, width // 4 + 1), dtype=torch.uint8)
    regions = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :height, :width].contiguous()
    keep = (torch.rand(batch, count) * 3 - 1).clamp(0, 1)
    return torch.randn(batch, channels, height, width).to(dtype), regions, keep.to(dtype)


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_values_are_the_formula(shape: tuple[int, ...], impl: str) -> None:
    images, regions, keep = inputs(shape)
    masked, areas = region_mask(images, regions, keep, impl=impl)
    counted = torch.zeros_like(areas)
    for b in range(shape[0]):
        for y in range(shape[2]):
            for x in range(shape[3]):
                region = int(regions[b, y, x])
                counted[b, region] += 1
                assert torch.equal(masked[b, :, y, x], images[b, :, y, x] * keep[b, region])
    assert areas.dtype == torch.int32
    assert torch.equal(areas, counted)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_fused_equals_reference_with_both_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images, regions, keep = inputs(shape, dtype)
    results = []
    for impl in ("fused", "reference"):
        leaves = images.clone().requires_grad_(), keep.clone().requires_grad_()
        masked, areas = region_mask(leaves[0], regions, leaves[1], impl=impl)
        upstream = torch.linspace(-1, 1, masked.numel()).view_as(masked).to(dtype)
        results.append((masked, areas, *torch.autograd.grad(masked, leaves, upstream)))
    (masked, areas, dimages, dkeep), (masked_r, areas_r, dimages_r, dkeep_r) = results
    assert torch.equal(masked, masked_r)
    assert torch.equal(areas, areas_r)
    assert torch.equal(dimages, dimages_r)
    coarse = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 3e-2, torch.bfloat16: 2e-1}[dtype]
    torch.testing.assert_close(dkeep, dkeep_r, rtol=coarse, atol=coarse)


def test_gradcheck() -> None:
    images, regions, keep = inputs((2, 2, 5, 6, 4))
    leaves = images.requires_grad_(), keep.requires_grad_()
    assert torch.autograd.gradcheck(lambda i, k: region_mask(i, regions, k, impl="fused")[0], leaves)
    assert torch.autograd.gradgradcheck(lambda i, k: region_mask(i, regions, k, impl="fused")[0], leaves)


@pytest.mark.parametrize("needs", [(False, False), (True, False), (True, True), (False, True)])
def test_opcheck(needs: tuple[bool, bool]) -> None:
    images, regions, keep = inputs((2, 3, 8, 8, 6))
    leaves = images.requires_grad_(needs[0]), regions, keep.requires_grad_(needs[1])
    opcheck(torch.ops.facex.region_mask.default, leaves)


def test_compiles() -> None:
    images, regions, keep = inputs((2, 3, 8, 8, 6), torch.float32)
    images.requires_grad_()

    def loss(i: Tensor) -> Tensor:
        masked, areas = region_mask(i * 1.0, regions, keep)
        return masked.square().sum() + areas.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(images), images)
    (expected,) = torch.autograd.grad(loss(images), images)
    torch.testing.assert_close(found, expected)


def test_bool_keep_and_strided_inputs() -> None:
    images, regions, keep = inputs((2, 3, 12, 10, 7), torch.float32)
    chosen = keep > 0.5
    masked, areas = region_mask(images, regions, chosen)
    assert torch.equal(masked, region_mask(images, regions, chosen.float())[0])
    turned = regions.transpose(1, 2).contiguous().transpose(1, 2)
    again = region_mask(images.to(memory_format=torch.channels_last), turned, chosen.T.contiguous().T)
    assert torch.equal(again[0], masked)
    assert torch.equal(again[1], areas)


def test_threads_do_not_change_anything() -> None:
    images, regions, keep = inputs(SHAPES[2], torch.float32)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(region_mask(images, regions, keep))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_inputs_are_not_changed_and_empty_batches_are_empty() -> None:
    images, regions, keep = inputs((2, 3, 8, 8, 6))
    copies = images.clone(), regions.clone(), keep.clone()
    region_mask(images, regions, keep)
    assert all(torch.equal(a, b) for a, b in zip((images, regions, keep), copies, strict=True))
    masked, areas = region_mask(images[:0], regions[:0], keep[:0])
    assert masked.shape == (0, 3, 8, 8)
    assert areas.shape == (0, 6)


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_a_region_outside_is_an_error(impl: str) -> None:
    images, regions, keep = inputs((2, 3, 8, 8, 6))
    regions[1, 7, 7] = 6
    with pytest.raises(ValueError, match="names region 6, but there are 6 regions"):
        region_mask(images, regions, keep, impl=impl)


@pytest.mark.parametrize(
    ("images", "regions", "keep", "message"),
    [
        ((2, 3, 8, 8), (2, 8, 9), (2, 4), r"\(2, 3, 8, 8\) and \(2, 8, 9\)"),
        ((2, 3, 8, 8), (1, 8, 8), (2, 4), r"\(2, 3, 8, 8\) and \(1, 8, 8\)"),
        ((2, 3, 8, 8), (2, 8, 8), (3, 4), r"keep is \(3, 4\)"),
        ((2, 3, 8, 8), (2, 8, 8), (2, 300), "K in 1..256"),
        ((2, 3, 8, 8), (2, 1, 8, 8), (2, 4), r"\[B, H, W\]"),
    ],
)
def test_bad_shapes(images: tuple[int, ...], regions: tuple[int, ...], keep: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        region_mask(torch.rand(images), torch.zeros(regions, dtype=torch.uint8), torch.rand(keep))


def test_bad_types_and_implementations() -> None:
    images, regions, keep = inputs((2, 3, 8, 8, 6))
    with pytest.raises(TypeError, match=r"regions are torch.int64"):
        region_mask(images, regions.long(), keep)
    with pytest.raises(TypeError, match=r"images are torch.uint8"):
        region_mask(images.byte(), regions, keep)
    with pytest.raises(TypeError, match=r"keep is torch.int64"):
        region_mask(images, regions, keep.long())
    with pytest.raises(ValueError, match="auto, fused, reference"):
        region_mask(images, regions, keep, impl="best")


def test_the_operator_itself_refuses_what_would_read_beyond_memory() -> None:
    images, regions, keep = inputs((2, 3, 8, 8, 6))
    with pytest.raises(RuntimeError, match="are wanted"):
        torch.ops.facex.region_mask(images, regions[:, :7], keep)
    with pytest.raises(RuntimeError, match="images' floating type"):
        torch.ops.facex.region_mask(images, regions, keep.float())
